"""Live rows: the rows of a store that are not retired and have a vector, and their positions in the shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.store import folders, shards, written
from featstore.store.identity import Identity
from featstore.store.ids import Ids, member
from featstore.store.plan import Plan, Unit
from featstore.store.shards import Failure, OpenShards, Shard, Unfinished

Places = NDArray[np.int64] | slice
_KEYS = 8192
"""Number of keys to read at once."""


def shard_names(store: Path) -> set[str]:
    """Return the names of all shards, including shards that belong to no unit of the plan.

    Raises DamagedError if the folder of the shards is a link.
    """
    try:
        return set(folders.names(store, folders.SHARDS, pattern=folders.SHARD))
    except FileNotFoundError:
        return set()


def missing_shard(path: Path) -> str:
    """Return the message that the shard of a finished unit is missing, with the remedy."""
    return (
        f"{path}: is missing, and its unit was finished; restore it from a copy, or let featstore repair "
        f"{path.parent.parent} extract it again"
    )


class LiveRows:
    """Rows of the finished units that are not retired, numbered in the order of their ids.

    ``partial``: include the rows of unfinished units that are in their journals now.

    Attributes
    ----------
    units : list of Unit
        All units of the plan.
    finished : list of Unit
        Units that have a shard or, with ``partial``, journaled rows.
    failures : int
        Number of failed pictures that are not retired.
    shards : OpenShards
        The shards, opened on demand.
    """

    def __init__(self, store: Path, identity: Identity, plan: Plan, *, partial: bool = False) -> None:
        self.store, self.plan = store, plan
        self.shards = OpenShards(store, identity)
        # Read the plan first: shards whose unit is not in this plan were planned later, and are ignored.
        self.units = plan.units()
        self.finished: list[Unit] = []
        self.failures = 0
        self._failed: set[int] = set()
        # Offsets of the live rows, for units in which some rows are retired.
        self._live: dict[int, NDArray[np.int64]] = {}
        counts = []
        marks, names = written.marks(store), shard_names(store)
        for unit in self.units:
            path = shards.shard_path(store, unit.number)
            counted: tuple[int, int] | None
            if path.name in names:
                counted = self._count_finished(unit)
            elif written.mark_of(path) in marks:
                raise DamagedError(missing_shard(path))
            else:
                counted = self._count_unfinished(unit) if partial else None
            if counted is None:
                continue
            self.finished.append(unit)
            vectors, failed = counted
            counts.append(vectors)
            self.failures += failed
            if failed:
                self._failed.add(unit.number)
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._first_ids = np.array([unit.first_id for unit in self.finished], np.int64)

    def _count_unfinished(self, unit: Unit) -> tuple[int, int] | None:
        """Return (live vectors, live failures) in a unit's journals, as counts; None if no row is extracted yet."""
        from featstore.store.unfinished import read_unfinished

        found = read_unfinished(self.store, self.plan, unit, self.shards.identity)
        if found is None:
            try:
                # Since the check for the shard, another process may have written the shard and removed the journals.
                return self._count_finished(unit)
            except FileNotFoundError:
                return None
        self.shards.unfinished[unit.number] = found
        self._live[unit.number] = np.flatnonzero(~self.plan.is_retired(found.ids))
        return len(self._live[unit.number]), int((~self.plan.is_retired(found.failed_ids)).sum())

    def _count_finished(self, unit: Unit) -> tuple[int, int]:
        """Return (live vectors, live failures) of a unit, as counts. Raises FileNotFoundError if it has no shard."""
        summary = self.shards.hold(unit.number)["summary"]
        try:
            vectors, failures = int(summary["vectors"]), int(summary["failures"])
        except (KeyError, TypeError, ValueError):
            vectors = failures = -1
        if vectors + failures != len(unit) or summary.get("unit") != unit.number:
            path = shards.shard_path(self.store, unit.number)
            raise DamagedError(f"{path}: does not hold what the plan says of unit {unit.number}")
        low, high = np.searchsorted(self.plan.retired, [unit.first_id, unit.last_id + 1])
        if low == high:
            return vectors, failures
        shard = self.shards[unit.number]
        self._live[unit.number] = np.flatnonzero(~self.plan.is_retired(shard.ids))
        return len(self._live[unit.number]), int((~self.plan.is_retired(shard.failed_ids)).sum())

    def __len__(self) -> int:
        """Return the number of vectors."""
        return int(self._starts[-1])

    def keys(self, rows: NDArray[np.int64] | None) -> Iterator[bytes]:
        """Yield the keys of ``rows`` (None: all) as bytes."""
        if rows is None:
            for shard, _, offsets in self.parts(None):
                yield from shard.keys.take(np.arange(len(shard.ids))[offsets])
            return
        for start in range(0, len(rows), _KEYS):
            part = np.asarray(rows[start : start + _KEYS], np.int64)
            keys = [b""] * len(part)
            for shard, places, offsets in self.parts(part):
                where, at = np.arange(len(part))[places], np.arange(len(shard.ids))[offsets]
                for place, key in zip(where.tolist(), shard.keys.take(at), strict=True):
                    keys[place] = key
            yield from keys

    def parts(self, rows: NDArray[np.int64] | None) -> Iterator[tuple[Shard | Unfinished, Places, Places]]:
        """For each shard, yield the shard, the indices of its rows in ``rows``, and the offsets of these rows in the
        shard.

        ``rows`` None means all rows.
        """
        if rows is None:
            for unit, start, stop in self.ranges():
                yield self.shards[unit.number], slice(start, stop), self._live.get(unit.number, slice(0, stop - start))
            return
        for index, places in _by_owner(np.searchsorted(self._starts, rows, side="right") - 1):
            unit = self.finished[index]
            offsets = rows[places] - self._starts[index]
            live = self._live.get(unit.number)
            yield self.shards[unit.number], places, offsets if live is None else live[offsets]

    def ranges(self) -> Iterator[tuple[Unit, int, int]]:
        """Yield (unit, its first row, end of its rows (exclusive)) for each unit with live rows, in the order of the
        rows.
        """
        for index, unit in enumerate(self.finished):
            start, stop = int(self._starts[index]), int(self._starts[index + 1])
            if stop > start:
                yield unit, start, stop

    def gather(
        self, attribute: str, rows: NDArray[np.int64] | None, shape: tuple[int, ...], dtype: Any
    ) -> NDArray[Any]:
        """Return one column of the shards, such as "sha256", for ``rows`` (None: all rows), as (m, *shape)."""
        result = np.empty((len(self) if rows is None else len(rows), *shape), dtype)
        for shard, places, offsets in self.parts(rows):
            column = getattr(shard, attribute)
            if isinstance(offsets, slice) or not (isinstance(places, slice) or len(places) == len(result)):
                result[places] = column[offsets]
            else:
                # Copy the rows directly to the destination array: indexing would copy them twice.
                np.take(
                    column, offsets, axis=0, out=result[places] if isinstance(places, slice) else result, mode="clip"
                )
        return result

    def blocks(
        self, rows: NDArray[np.int64] | None, block_rows: int, dimension: int, dtype: Any
    ) -> Iterator[NDArray[Any]]:
        """Yield the vectors of ``rows`` (None: all rows) as arrays of at most (block_rows, dimension)."""
        if rows is None:
            for shard, _, offsets in self.parts(None):
                n = len(shard.ids) if isinstance(offsets, slice) else len(offsets)
                for start in range(0, n, block_rows):
                    part = slice(start, min(start + block_rows, n))
                    yield shard.features[part] if isinstance(offsets, slice) else shard.features[offsets[part]]
            return
        for start in range(0, len(rows), block_rows):
            yield self.gather("features", rows[start : start + block_rows], (dimension,), dtype)

    def of_ids(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of each id, or -1 for an id without a live vector."""
        rows = np.full(len(ids), -1, np.int64)
        for index, places in self._owners(ids):
            unit = self.finished[index]
            shard = self.shards[unit.number]
            live = self._live.get(unit.number)
            present = shard.ids if live is None else shard.ids[live]
            hit = member(ids[places], present)
            rows[places[hit]] = self._starts[index] + np.searchsorted(present, ids[places[hit]])
        return rows

    def content(self, ids: Ids) -> NDArray[np.uint8]:
        """Return the SHA-256 of the bytes of each id's picture, (m, 32) uint8; zeros if the bytes were never read."""
        known = np.zeros((len(ids), 32), np.uint8)
        for index, places in self._owners(ids):
            shard = self.shards[self.finished[index].number]
            for present, sums in ((shard.ids, shard.sha256), (shard.failed_ids, shard.failed_sha256)):
                hit = places[member(ids[places], present)]
                known[hit] = sums[np.searchsorted(present, ids[hit])]
        return known

    def _owners(self, ids: Ids) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Group ``ids`` by the unit that contains them.

        Yield for each such unit: its index in ``finished``, and the indices in ``ids`` of the ids that it contains. Ids
        of retired and failed rows are found too.
        """
        if not self.finished:
            return
        owner = np.searchsorted(self._first_ids, ids, side="right") - 1
        for index in np.unique(owner[(ids >= 0) & (owner >= 0)]).tolist():
            yield index, np.flatnonzero((owner == index) & (ids >= 0))

    def failed(self) -> Iterator[tuple[bytes, Failure]]:
        """Yield (key, Failure) of the live pictures that could not be read."""
        for unit in self.finished:
            if unit.number in self._failed:
                shard = self.shards[unit.number]
                counts = ~self.plan.is_retired(shard.failed_ids)
                for (key, failure), counted in zip(shard.failures(), counts.tolist(), strict=True):
                    if counted:
                        yield key, failure


def _by_owner(owner: NDArray[np.int64]) -> Iterator[tuple[int, Places]]:
    """Group the elements of ``owner`` (n,) by value: yield (value, indices of its elements) for each distinct value.

    If ``owner`` is ascending, the indices are slices, so that no second copy of the data is needed.
    """
    cuts = np.flatnonzero(owner[1:] != owner[:-1]) + 1
    if (owner[1:] >= owner[:-1]).all():
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(owner)], strict=True):
            if stop > start:
                yield int(owner[start]), slice(start, stop)
        return
    for index in np.unique(owner).tolist():
        yield index, np.flatnonzero(owner == index)
