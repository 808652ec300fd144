"""Write a store as a folder of Parquet, npy or CSV files; a killed export can be resumed.

* parquet: ``part-<epoch>-<unit>.parquet`` (epoch: number of compactions), a row group for each unit, with the columns
  of featstore.store.arrow.
* npy: ``vectors.npy`` (n, d), and ``rows.parquet`` with all other columns in the same order.
* csv: ``rows.csv`` with all columns; sha256 in hexadecimal, numbers with the fewest digits that restore the same value.

``_featstore.json`` describes the export: store, identity, provenance, rows, and whether the export is complete. Rows
are written unit by unit (a unit is a row range with its own shard). A Parquet part that already has the rows and
columns of its unit is kept. The npy and csv files have temporary names until they are complete;
``.featstore-export.progress`` records how many rows and bytes of them are synced to disk.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from featstore.errors import DamagedError, UsageError
from featstore.files import atomic, parquet
from featstore.store import arrow
from featstore.store.feature_store import FeatureStore
from featstore.text import counted, printable

FORMATS: Final = ("parquet", "npy", "csv")
DESCRIPTION: Final = "_featstore.json"
_PROGRESS: Final = ".featstore-export.progress"
_TOKEN: Final = "featstore_part"
_VERSION: Final = 1
_MAKERS: Final = 100
"""Largest number of provenance entries in ``_featstore.json``; the Parquet files contain all entries."""
_BLOCK_BYTES: Final = 32 << 20
"""Bytes of vectors to read at once."""
_CSV_ROWS: Final = 1024
"""Number of rows to convert to text at once; each number in a CSV takes about 12 bytes."""
_GROWN: Final = {"npy": ("vectors.npy", "rows.parquet"), "csv": ("rows.csv",)}
"""Names of the files of an npy or csv export; each of these files contains the rows of all units."""


@dataclass(frozen=True)
class StoreExport:
    """Result of an export.

    ``files``: names in the folder ``out``; ``bytes``: their total size; ``kept``: number of rows that an earlier run
    had written.
    """

    out: str
    format: str
    rows: int
    dimension: int
    columns: list[str]
    files: list[str]
    bytes: int
    kept: int

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the export as JSON types."""
        return asdict(self)

    def text(self) -> str:
        """Return the result of the export as one line for the user."""
        kept = f", {self.kept:,} of them written before" if self.kept else ""
        return (
            f"{self.out}: {counted(self.rows, 'row')} x {self.dimension:,} in {counted(len(self.files), 'file')} "
            f"({self.bytes / 2**20:,.1f} MiB){kept}; columns {', '.join(map(printable, self.columns))}"
        )


def export_store(
    store: FeatureStore, out: Path, form: str, on_rows: Callable[[int, int], None] | None = None
) -> StoreExport:
    """Write the rows of ``store`` to the folder ``out`` in the format ``form``, and return a StoreExport.

    ``on_rows`` is called with the number of rows written so far and the number of all rows. Raises UsageError if
    ``out`` exists and is not an export of this store in this format, or if another process is writing to it; OSError if
    writing fails.
    """
    if form not in FORMATS:
        raise UsageError(f"there is no format {form!r}; choose one of {', '.join(FORMATS)}")
    atomic.require_place(out)
    with atomic.only_writer(out, "export"):
        _require_own(out, store, form)
        atomic.make_directory(out)
        _sweep(out)
        return _Job(store, out, form, on_rows or (lambda done, total: None)).run()


def _require_own(out: Path, store: FeatureStore, form: str) -> None:
    if not os.path.lexists(out):
        return
    found = _described(out)
    if found is None:
        if out.is_dir() and not any(out.iterdir()):
            return
        raise UsageError(f"{out}: exists and is no export of featstore; name a new folder with --out")
    if (found.get("store_id"), found.get("format")) != (store.store_id, form):
        raise UsageError(
            f"{out}: holds an export of another store or in another format; name a new folder with --out, or remove it first"
        )


def _described(out: Path) -> dict[str, Any] | None:
    try:
        return atomic.read_json(out / DESCRIPTION, follow=False)
    except (OSError, DamagedError):
        return None


def _sweep(out: Path) -> None:
    """Remove the temporary files of a killed export."""
    for path in out.glob(f".*{atomic.TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):
            path.unlink()


class _Job:
    def __init__(self, store: FeatureStore, out: Path, form: str, on_rows: Callable[[int, int], None]) -> None:
        self._store, self._out, self._form, self._on_rows = store, out, form, on_rows
        self._about, self._side, self._kept = arrow.description(store), arrow.rows_of(store), 0
        state = (store.store_id, form, _VERSION, *store.generation, store._tables.version)
        self._token = xxhash.xxh3_128_hexdigest(repr(state).encode())
        self._row_bytes = store.dimension * store.identity.numpy_dtype.itemsize

    def run(self) -> StoreExport:
        """Write the files and rows that an earlier, killed run of the export has not written."""
        if self._is_complete():
            files, self._kept = list(_GROWN[self._form]), len(self._store)
        else:
            self._describe({"complete": False, "files": {}})
            files = {"parquet": self._parts, "npy": self._npy, "csv": self._csv}[self._form]()
            sizes = {name: _size(self._out / name) for name in _GROWN.get(self._form, ())}
            self._describe({"complete": True, "files": sizes})
        rows, d = self._store.shape
        columns = [*self._side.column_names, arrow.VECTOR]
        total = sum(_size(self._out / name) for name in files)
        return StoreExport(os.fspath(self._out), self._form, rows, d, columns, files, total, self._kept)

    def _is_complete(self) -> bool:
        """Return whether an earlier run completed this export: same format, rows and labels.

        False for Parquet, whose parts are checked one by one.
        """
        found = _described(self._out) or {}
        sizes = found.get("files")
        if found.get("complete") is not True or found.get("token") != self._token or not isinstance(sizes, dict):
            return False
        wanted = _GROWN.get(self._form, ())
        return bool(wanted) and all(_size(self._out / name) == sizes.get(name) for name in wanted)

    def _describe(self, state: dict[str, Any]) -> None:
        made = self._about["made_by"]
        about = {**self._about, "made_by": made[:_MAKERS], "runs": len(made)}
        own = {"version": _VERSION, "format": self._form, "token": self._token, "rows": len(self._store)}
        atomic.write_json(self._out / DESCRIPTION, {**own, **state, **about})

    def _units(self) -> Iterator[tuple[int, int, int, Iterator[NDArray[Any]]]]:
        """Yield (number of the unit, first row, end row, iterator of vector blocks) for each unit that has rows."""
        live = self._store._live
        for (unit, start, stop), (shard, _, offsets) in zip(live.ranges(), live.parts(None), strict=True):
            yield unit.number, start, stop, _blocks(shard.features, offsets, max(1, _BLOCK_BYTES // self._row_bytes))

    def _parts(self) -> list[str]:
        """Write a Parquet file for each unit whose file is missing or outdated; return the names of all files."""
        files = []
        kind = arrow.vector_type(self._store)
        for number, start, stop, blocks in self._units():
            name = f"part-{number >> 32:06d}-{number & 0xFFFFFFFF:08d}.parquet"
            side = self._side.slice(start, stop - start)
            text = json.dumps(arrow.description(self._store, number), sort_keys=True)
            token = _token_of(side, f"{self._store.store_id} {number} {_VERSION} {text}")
            if _token_at(self._out / name) == token:
                self._kept += stop - start
            else:
                with atomic.new_file(self._out / name) as temporary:
                    metadata = {arrow.METADATA.decode(): text, _TOKEN: token}
                    parquet.write(temporary, side, arrow.VECTOR, blocks, kind, metadata)
            files.append(name)
            self._on_rows(stop, len(self._store))
        for path in self._out.glob("part-*.parquet"):
            # Remove the parts of units that a compaction has replaced.
            if path.name not in files:
                path.unlink()
        return files

    def _npy(self) -> list[str]:
        from pyarrow import parquet as small_parquet

        head = io.BytesIO()
        dtype = np.lib.format.dtype_to_descr(self._store.identity.numpy_dtype)
        np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": self._store.shape})
        self._grow("vectors.npy", head.getvalue(), lambda block, _: np.ascontiguousarray(block).view(np.uint8).data)
        with atomic.new_file(self._out / "rows.parquet") as temporary:
            small_parquet.write_table(self._side, temporary)
        return list(_GROWN["npy"])

    def _csv(self) -> list[str]:
        names = [*self._side.column_names, *(f"{arrow.VECTOR}_{number}" for number in range(self._store.dimension))]
        self._grow(
            "rows.csv",
            arrow.csv_bytes(self._side.slice(0, 0), np.empty((0, self._store.dimension)), names),
            lambda block, start: arrow.csv_bytes(self._side.slice(start, len(block)), block, None),
        )
        return list(_GROWN["csv"])

    def _grow(self, name: str, head: bytes, encode: Callable[[NDArray[Any], int], bytes | memoryview]) -> None:
        """Write the file header ``head`` and the encoded vectors to the file ``name``; continue a killed export's file.

        The file is synced after each unit. ``encode``: function that maps a block of vectors and its first row to
        bytes.
        """
        partial, progress = self._out / f".{name}.partial", self._out / _PROGRESS
        done, size = self._reached(partial, progress)
        self._kept = done
        with _named(partial), _opened(partial, size) as file:
            if not size:
                file.write(head)
            for _, start, stop, blocks in self._units():
                if stop <= done:
                    continue
                at = start
                for block in blocks:
                    for place in range(0, len(block), _CSV_ROWS):
                        part = block[place : place + _CSV_ROWS]
                        file.write(encode(part, at + place))
                    at += len(block)
                file.flush()
                os.fsync(file.fileno())
                atomic.write_json(progress, {"token": self._token, "rows": stop, "bytes": file.tell()})
                self._on_rows(stop, len(self._store))
        os.replace(partial, self._out / name)
        atomic.sync(self._out)
        progress.unlink(missing_ok=True)

    def _reached(self, partial: Path, progress: Path) -> tuple[int, int]:
        """Return how many rows and bytes of this export a killed run has synced to the file ``partial``.

        (0, 0) if this is not recorded, or if the file is shorter than recorded or belongs to another export.
        """
        try:
            found = atomic.read_json(progress, follow=False)
            rows, size = int(found["rows"]), int(found["bytes"])
        except (OSError, DamagedError, KeyError, TypeError, ValueError):
            return 0, 0
        whole = found.get("token") == self._token and 0 < size <= _size(partial) and 0 < rows <= len(self._store)
        return (rows, size) if whole else (0, 0)


def _blocks(features: NDArray[Any], offsets: Any, rows: int) -> Iterator[NDArray[Any]]:
    n = len(features) if isinstance(offsets, slice) else len(offsets)
    for start in range(0, n, rows):
        part = slice(start, min(start + rows, n))
        yield features[part] if isinstance(offsets, slice) else features[offsets[part]]


def _token_of(side: Any, other: str) -> str:
    """Return a checksum of ``side`` (the columns of a Parquet part except the vectors) and of the text ``other``."""
    import pyarrow as pa
    from pyarrow import parquet as small_parquet

    # Hash the rows as Parquet, because equal rows then have equal bytes. The bytes of an Arrow column also depend on
    # rows outside this part.
    plain = {
        name: side[name].cast(side[name].type.value_type) if pa.types.is_dictionary(side[name].type) else side[name]
        for name in side.column_names
    }
    sink = pa.BufferOutputStream()
    small_parquet.write_table(pa.table(plain), sink, use_dictionary=False, compression="none", store_schema=False)
    digest = xxhash.xxh3_128(other.encode(errors="surrogatepass"))
    digest.update(sink.getvalue())
    return digest.hexdigest()


def _token_at(path: Path) -> str | None:
    import pyarrow as pa

    try:
        return parquet.read_metadata(path).get(_TOKEN)
    except (OSError, DamagedError, pa.ArrowException):
        return None


def _size(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return -1


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Context manager that adds the file name ``path`` to an OSError without a file name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def _opened(path: Path, size: int) -> BinaryIO:
    """Open ``path`` for writing from byte ``size`` on; a link is not followed."""
    if size:
        file: Any = atomic.open_regular(path, follow=False, writable=True)
        file.truncate(size)
        file.seek(size)
        return io.BufferedRandom(file, 1 << 20)
    path.unlink(missing_ok=True)
    return open(path, "xb", buffering=1 << 20)
