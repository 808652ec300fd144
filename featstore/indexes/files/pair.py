"""An index on disk: ``PATH``, a plain FAISS file, and ``PATH.featstore``, its side file.

The side file (a sealed file of kind "index", see featstore/files/sealed.py) has what FAISS cannot store: keys, labels,
the store's fingerprint and identity, the measured recall, and the size and XXH3-128 of the FAISS file, by which
featstore recognises that the two files belong together. Arrays of the side file, by position: ``ids`` int64 (n,),
``keys/blob`` uint8, ``keys/offsets`` int64 (n + 1,), ``removed`` bool (n,), and, if there are labels, ``labels`` int32
(n,), indices into meta's ``classes``, -1 for none.

Saving writes ``PATH.featstore.next``, then renames the FAISS file into place, then the side file. After a kill at any
moment exactly one of ``PATH.featstore`` and ``PATH.featstore.next`` matches ``PATH``. When the index is opened,
featstore reads the one that matches, and so gets either the old index or the new one.

The ids in the FAISS file are the store's row ids, which are never reused: ``store.rows_of_ids(ids)`` gives row numbers,
``store.keys`` their keys. featstore skips rows marked in ``removed``, but a plain reader of the FAISS file still finds
them; rows_of_ids returns -1 for them. ``featstore index --update`` deletes them from an exact index; a graph or
inverted lists of codes keep them until the next build.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError, UsageError
from featstore.files import atomic, sealed
from featstore.files.byte_columns import ByteColumn
from featstore.indexes.blocks import Metric, check_metric
from featstore.indexes.files import faiss_io, vetting
from featstore.indexes.recall import Recall
from featstore.indexes.rows import IndexRows

KIND = "index"
FORMAT = 1
SIDE_SUFFIX = ".featstore"
NEXT_SUFFIX = ".featstore.next"
_TRIES = 5
_NUMBER = int | float | None
_CONTRACT: dict[str, Any] = {"recall": int | float, "at": int, "memory": int | None, "latency": _NUMBER}
_CONTRACT |= {"holds": bool, "rows_tried": int, "sampled": bool}
_TRIAL: dict[str, Any] = {"name": str, "outcome": str, "bytes": int, "effort": dict | None, "recall": dict | None}
_TRIAL |= {"build_seconds": _NUMBER, "queries_per_second": _NUMBER, "latency_seconds": _NUMBER}


@dataclass(frozen=True)
class Record:
    """What the side file records about the index as a whole.

    ``measured_rows``: number of rows in the index when ``recall`` was measured. ``trials``: all index types that were
    tried for the ``contract``.
    """

    metric: Metric
    factory: str
    fingerprint: str
    identity: dict[str, Any]
    generation: int
    recall: Recall
    measured_rows: int
    contract: dict[str, Any] | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def side_path(path: Path) -> Path:
    """Return the path of the side file of the index ``path``."""
    return Path(path).with_name(Path(path).name + SIDE_SUFFIX)


def save(path: Path, index: faiss_io.VectorIndex, tables: IndexRows, record: Record) -> None:
    """Write the index and its side file. Readers find either the old index or the new one, even after a kill.

    Raises UsageError if another process is writing this index.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; name a file for the index, such as {path / 'index.faiss'}")
    atomic.make_directory(path.parent)
    atomic.require_place(path, NEXT_SUFFIX)
    following = path.with_name(path.name + NEXT_SUFFIX)
    with atomic.only_writer(path, "index"):
        with atomic.new_file(path) as temporary:
            index.write(temporary)
            _write_side(following, temporary, index, tables, record)
        os.replace(following, side_path(path))
        atomic.sync(path.parent)
        vetting.trust(path)


def _write_side(side: Path, faiss_file: Path, index: faiss_io.VectorIndex, tables: IndexRows, record: Record) -> None:
    arrays: dict[str, NDArray[Any] | sealed.Blocks] = {
        "ids": tables.ids,
        "keys/blob": tables.keys.blob,
        "keys/offsets": tables.keys.offsets.view(np.int64),
        "removed": tables.removed,
    }
    if tables.labels is not None:
        arrays["labels"] = tables.labels
    meta = {
        "format": FORMAT,
        "metric": record.metric,
        "factory": record.factory,
        "fingerprint": record.fingerprint,
        "identity": record.identity,
        "generation": record.generation,
        "recall": record.recall.to_dict(),
        "measured_rows": record.measured_rows,
        "contract": record.contract,
        "trials": record.trials,
        "versions": record.versions,
        "classes": list(tables.classes),
    }
    summary = {
        "rows": len(tables.ids),
        "dimension": index.dimension,
        "faiss_bytes": faiss_file.stat().st_size,
        "faiss_xxh3": atomic.checksum_file(faiss_file),
    }
    sealed.write(side, KIND, arrays, meta, summary)


def load(path: Path, *, mmap: bool, check: bool) -> tuple[faiss_io.VectorIndex, IndexRows, Record]:
    """Open an index and its side file.

    ``check``: read every byte and compare checksums first; otherwise only sizes and shapes are compared. Raises
    DamagedError if the two files do not match or are damaged, UsageError if there is no index.
    """
    path = Path(path)
    for attempt in range(_TRIES):
        before = _stat(path)
        side = _matching_side(path, before.st_size, check)
        if side is not None:
            try:
                opened = _read_pair(path, side, mmap)
            except DamagedError:
                # A writer may have replaced the FAISS file after the side file was read. In that case try
                # again; otherwise report the damage.
                if _unchanged(path, before):
                    raise
                continue
            if _unchanged(path, before):
                return opened
        elif attempt and _unchanged(path, before):
            # The FAISS file did not change during this try, so no writer is between its two renames: report the damage.
            break
    raise DamagedError(f"{path}: is not the file that {side_path(path).name} describes; build the index again")


def load_rows(path: Path) -> tuple[IndexRows, Record]:
    """Return the row table and the Record (properties) of an index without opening its FAISS file.

    Raises the errors of ``load``.
    """
    side = _matching_side(Path(path), _stat(Path(path)).st_size, check=False)
    if side is None:
        raise DamagedError(f"{path}: is not the file that {side_path(path).name} describes; build the index again")
    _check_summary(side)
    return _read_tables(side, side.meta), _read_record(side, side.meta)


def _read_pair(path: Path, side: sealed.SealedFile, mmap: bool) -> tuple[faiss_io.VectorIndex, IndexRows, Record]:
    _check_summary(side)
    tables, record = _read_tables(side, side.meta), _read_record(side, side.meta)
    vetting.vet(path, side.summary["rows"], side.summary["dimension"], mmap=mmap)
    index = faiss_io.VectorIndex.read(path, side.summary["rows"], side.summary["dimension"], mmap=mmap)
    if index.inner_product == (record.metric == "l2") or not np.array_equal(index.ids, tables.ids):
        raise DamagedError(f"{path}: its ids or metric are not its side file's; build the index again")
    return index, tables, record


def _unchanged(path: Path, before: os.stat_result) -> bool:
    after = _stat(path)
    return (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def _stat(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such index; make one with `featstore index`") from None


def _matching_side(path: Path, size: int, check: bool) -> sealed.SealedFile | None:
    """Return PATH.featstore or PATH.featstore.next, whichever matches ``path``; None if no side file matches."""
    following = path.with_name(path.name + NEXT_SUFFIX)
    if not side_path(path).exists() and not following.exists():
        raise UsageError(f"{path}: its side file {side_path(path).name} is missing; copy both or build again")
    checksum = atomic.checksum_file(path) if check or following.exists() else None
    damage: DamagedError | None = None
    for name in (side_path(path), following):
        try:
            side = sealed.SealedFile(name, KIND)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            damage = error
            continue
        if side.summary.get("faiss_bytes") == size and checksum in (None, side.summary.get("faiss_xxh3")):
            if check and (damages := side.verify()):
                raise DamagedError(f"{damages[0]}; build the index again")
            return side
    if damage is not None:
        raise damage
    return None


def _check_summary(side: sealed.SealedFile) -> None:
    rows, dimension = side.summary.get("rows"), side.summary.get("dimension")
    if not isinstance(rows, int) or not isinstance(dimension, int) or rows < 0 or dimension < 1:
        raise DamagedError(f"{side.path}: its summary is damaged")


def _read_tables(side: sealed.SealedFile, meta: Mapping[str, Any]) -> IndexRows:
    rows = side.summary["rows"]
    keys = ByteColumn(_array(side, "keys/blob", "|u1"), _array(side, "keys/offsets", "<i8"))
    keys.check(rows, str(side.path))
    labels = _array(side, "labels", "<i4") if "labels" in side else None
    classes = meta.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise DamagedError(f"{side.path}: its classes are damaged")
    tables = IndexRows(_array(side, "ids", "<i8"), keys, _array(side, "removed", "|b1"), labels, tuple(classes))
    if any(array is not None and array.shape != (rows,) for array in (tables.ids, tables.removed, labels)):
        raise DamagedError(f"{side.path}: its arrays do not fit its {rows:,} rows")
    if labels is not None and rows and (int(labels.min()) < -1 or int(labels.max()) >= len(classes)):
        raise DamagedError(f"{side.path}: its labels are damaged")
    return tables


def _array(side: sealed.SealedFile, name: str, dtype: str) -> Any:
    array = side[name]
    if array.dtype.str != dtype:
        raise DamagedError(f"{side.path}: {name} has the type {array.dtype} where {np.dtype(dtype)} is needed")
    return array


def _read_record(side: sealed.SealedFile, meta: Mapping[str, Any]) -> Record:
    if meta.get("format") != FORMAT:
        raise UsageError(f"{side.path}: has format {meta.get('format')!r}; this featstore reads {FORMAT}: upgrade it")
    types = {"factory": str, "fingerprint": str, "identity": dict, "generation": int, "measured_rows": int}
    types |= {"trials": list, "versions": dict}
    if not all(isinstance(meta.get(name), kind) for name, kind in types.items()):
        raise DamagedError(f"{side.path}: its description is damaged")
    contract, trials = meta.get("contract"), meta["trials"]
    if contract is not None and not (
        _has(contract, _CONTRACT) and isinstance(contract.get("latency_seconds"), _NUMBER)
    ):
        raise DamagedError(f"{side.path}: its contract is damaged")
    if not all(_has(trial, _TRIAL) for trial in trials):
        raise DamagedError(f"{side.path}: its table of what was tried is damaged")
    for trial in trials:
        if trial["recall"] is not None:
            Recall.from_dict(trial["recall"])
    return Record(
        metric=check_metric(str(meta.get("metric"))),
        recall=Recall.from_dict(meta.get("recall")),
        contract=contract,
        **{name: meta[name] for name in types},
    )


def _has(value: Any, fields: Mapping[str, Any]) -> bool:
    """Return whether ``value`` is a dict that has all names in ``fields``, with values of the given types."""
    return isinstance(value, dict) and all(isinstance(value.get(name, ...), kind) for name, kind in fields.items())


def verify(path: Path) -> list[str]:
    """Read every byte of an index and its side file; return a description of the damage, [] if there is no damage."""
    try:
        load(path, mmap=True, check=True)
    except (DamagedError, UsageError) as error:
        return [str(error)]
    return []
