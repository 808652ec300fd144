"""Restore a damaged shard: keep intact vectors, and compute damaged ones again or record them as failures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.files import atomic, sealed
from featstore.store import folders, shards, written
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan, Unit
from featstore.store.rows import Rows
from featstore.store.shards import Failure, Finished, Shard

DAMAGED = folders.DAMAGED
"""Failure reason of pictures whose damaged vector could not be computed again; also the name of the folder in which
damaged files are kept."""
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Remade:
    """A row that was extracted again.

    ``vector`` (d,), or None with ``reason`` and ``message``; ``sha256`` of the picture's bytes.
    """

    vector: NDArray[Any] | None
    sha256: bytes
    reason: str = ""
    message: str = ""


Remake = Callable[[Unit, Rows, NDArray[np.int64], int | None], dict[int, Remade]]
"""Function that extracts rows again: takes a unit, its rows, the indices of the wanted rows, and the batch size; returns
the result of each wanted row by its index."""


@dataclass
class ShardRepair:
    """Restore shards of one store.

    ``remake``: computes damaged vectors again; if None, the pictures become failures. ``aside``: keeps a damaged file
    before it is replaced. ``remade``: number of vectors computed again. ``failed``: number of pictures that became
    failures.
    ``pending``: numbers of the units to extract again.
    """

    manifest: Manifest
    plan: Plan
    remake: Remake | None
    aside: Callable[[Path], object]
    restored: Callable[[Path], None]
    remade: int = 0
    failed: int = 0
    pending: list[int] = field(default_factory=list)

    def restore(self, unit: Unit, file: Path, found: sealed.SealedFile | None, names: set[str]) -> None:
        """Restore the shard ``file`` of ``unit``.

        ``names``: the damaged datasets. ``found``: the file's header and datasets, None if the header is damaged too.
        """
        derived = {"", "features", "row_xxh3", "keys/bytes", "keys/offsets", "view", "meta"}
        derived |= {"lookup/hi", "lookup/lo", "lookup/row"}
        if found is None or names - derived:
            self._whole(file, unit)
            return
        try:
            shard = Shard(file, self.manifest.identity)
        except DamagedError:
            self._whole(file, unit)
            return
        rows = self.plan.rows(unit)
        place = {int(number): at for at, number in enumerate(rows.ids.tolist())}
        bad = shard.damaged_rows() if "features" in names else np.empty(0, np.int64)
        made = [] if "meta" in names else shard.provenance
        wanted = np.array([place[int(number)] for number in shard.ids[bad]], np.int64)
        remade = self.remake(unit, rows, wanted, _batch(made)) if self.remake is not None and len(wanted) else {}
        vectors: dict[int, NDArray[Any]] = {}
        failures: list[tuple[int, bytes, Failure, bytes]] = [
            (failure.id, rows.keys[place[failure.id]], failure, shard.failed_sha256[at].tobytes())
            for at, (_, failure) in enumerate(shard.failures())
        ]
        for at in bad.tolist():
            number, sums = int(shard.ids[at]), shard.sha256[at].tobytes()
            result = remade.get(place[number])
            if result is not None and result.vector is not None and result.sha256 == sums:
                vectors[at] = result.vector
                continue
            failures.append((number, rows.keys[place[number]], Failure(number, DAMAGED, _why(result)), sums))
        self._write(file, unit, shard, rows, place, bad, vectors, sorted(failures, key=lambda item: item[0]), made)

    def _write(
        self,
        file: Path,
        unit: Unit,
        shard: Shard,
        rows: Rows,
        place: dict[int, int],
        bad: NDArray[np.int64],
        vectors: dict[int, NDArray[Any]],
        failures: Sequence[tuple[int, bytes, Failure, bytes]],
        made: list[dict[str, Any]],
    ) -> None:
        lost = np.setdiff1d(bad, np.fromiter(vectors, np.int64, len(vectors)))
        kept = np.setdiff1d(np.arange(len(shard.ids)), lost)
        ids = shard.ids[kept]
        finished = Finished(
            unit.number,
            ids,
            rows.views[[place[int(number)] for number in ids]],
            [rows.keys[place[int(number)]] for number in ids],
            shard.sha256[kept],
            [failure for _, _, failure, _ in failures],
            [key for _, key, _, _ in failures],
            np.frombuffer(b"".join(sums for *_, sums in failures), np.uint8).reshape(-1, 32),
        )
        self.aside(file)
        shards.write_shard(
            file,
            self.manifest.identity,
            self.manifest.store_id,
            finished,
            _blocks(shard, kept, vectors),
            [*made, {"repaired": len(vectors), "rows": [0, len(unit)]}] if vectors else made,
            exclusive=False,
        )
        self.remade += len(vectors)
        self.failed += len(lost)
        self.restored(file)

    def _whole(self, file: Path, unit: Unit) -> None:
        """Move a whole shard aside; its unit is pending again, so the next extract writes a new shard."""
        self.aside(file)
        store = file.parent.parent
        written.unmark(store, written.mark_of(file))
        folders.remove_file(store, folders.SHARDS, file.name)
        atomic.sync(file.parent)
        self.pending.append(unit.number)


def fail_unit(store: Path, manifest: Manifest, plan: Plan, unit: Unit) -> int:
    """Record all rows of a pending unit as failures with the reason "damaged"; return their number."""
    rows = plan.rows(unit)
    none = np.empty(0, np.int64)
    message = "its shard was damaged, and its picture could not be read again"
    finished = Finished(
        unit.number,
        none,
        np.empty(0, np.uint32),
        [],
        np.empty((0, 32), np.uint8),
        [Failure(int(number), DAMAGED, message) for number in rows.ids],
        list(rows.keys),
        np.zeros((len(rows), 32), np.uint8),
    )
    shards.write_shard(shards.shard_path(store, unit.number), manifest.identity, manifest.store_id, finished, [], [])
    return len(rows)


def _batch(made: list[dict[str, Any]]) -> int | None:
    """Return the batch size with which a shard was computed; None if it is unknown or differs between vectors."""
    sizes = {entry.get("batch") for entry in made if "of_unit" not in entry and "repaired" not in entry}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if isinstance(size, int) and size > 0 else None


def _why(result: Remade | None) -> str:
    if result is None:
        return "its vector was damaged, and was not made again"
    if result.vector is None:
        return f"its vector was damaged, and its picture cannot be read: {result.message}"
    return "its vector was damaged, and its picture is another one now: extract again, with --retry-failures if need be"


def _blocks(shard: Shard, kept: NDArray[np.int64], vectors: dict[int, NDArray[Any]]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(kept), _BLOCK_ROWS):
        part = kept[start : start + _BLOCK_ROWS]
        block = shard.features[part]
        for at in np.flatnonzero(np.isin(part, list(vectors))).tolist():
            block[at] = vectors[int(part[at])]
        yield block
