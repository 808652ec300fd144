"""The plan: an append-only list of the pictures to extract, divided into units (row ranges).

plan/<epoch>/<segment>.h5 are sealed (checksummed) HDF5 files of kind "plan"; each compaction begins a new epoch. A
segment adds rows, each with a key, a view (0: the picture itself) and a 64-bit id that is never reused. The segment
divides its rows into units. It retires ids of earlier segments (changed, retried or removed pictures), and records new
sizes and times of pictures whose bytes are unchanged. A row is live unless a segment retires it. Several
processes may append at once: exclusive creation decides which process gets the segment's number, and the other process
makes its plan again after reading that segment.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.files import sealed
from featstore.files.byte_columns import ByteColumn, column
from featstore.store import folders, written
from featstore.store.ids import Ids, ascending, member, place
from featstore.store.keys import KeyIndex, digests
from featstore.store.rows import Rows

KIND = "plan"
CHANGED, RETRIED, REMOVED, DENIED = 1, 2, 3, 4
"""Reasons for retiring an id. DENIED: ``featstore remove`` removed the picture (see denylist.py)."""
SEGMENT_ROWS = 1 << 21
"""Largest number of rows in a segment (rounded to whole units); bounds the memory of planning."""

LARGEST_ID = 1 << 62
UNITS_OF_EPOCH = 1 << 32
"""Units of epoch e are numbered from e * 2**32, so that no unit gets the number of a killed compaction's shard."""


@dataclass(frozen=True)
class Unit:
    """A unit of work: the rows ``start`` to ``stop`` - 1 of ``segment``. The unit's shard has the same number."""

    number: int
    segment: int
    start: int
    stop: int
    first_id: int
    last_id: int

    def __len__(self) -> int:
        return self.stop - self.start


class Segment:
    """One segment of the plan, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.file = sealed.SealedFile(path, KIND, follow=False)
        file = self.file
        self.ids: Ids = column(file, "id", "<u8").view(np.int64)
        self.keys = ByteColumn.read(file, "keys")
        self.index = KeyIndex.read(file)
        self.views, self.sizes, self.mtimes = (
            column(file, name, dtype) for name, dtype in (("view", "<u4"), ("size", "<i8"), ("mtime", "<i8"))
        )
        self.offsets = column(file, "offset", "<i8") if "offset" in file.names else None
        self.locations = ByteColumn.read(file, "location") if "location/offsets" in file.names else None
        self.regions = column(file, "region", "<i4", 5) if "region" in file.names else None
        self.unit_numbers, self.unit_starts = column(file, "units/number", "<u8"), column(file, "units/start", "<u8")
        self.retired: Ids = column(file, "retired/id", "<u8").view(np.int64)
        self.why = column(file, "retired/why", "|u1")
        self.touched: Ids = column(file, "touched/id", "<u8").view(np.int64)
        self.touched_stat = column(file, "touched/size", "<i8"), column(file, "touched/mtime", "<i8")
        self.meta = file.meta
        n = len(self.ids)
        columns = [self.keys, self.index.hi, self.views, self.sizes, self.mtimes]
        columns += [rest for rest in (self.offsets, self.locations, self.regions) if rest is not None]
        if (
            any(len(values) != n for values in columns)
            or len(self.unit_starts) != len(self.unit_numbers) + 1
            or len(self.why) != len(self.retired)
            or any(len(values) != len(self.touched) for values in self.touched_stat)
        ):
            raise DamagedError(f"{path}: the columns of the plan differ in length")
        if (
            int(self.unit_starts[0]) != 0
            or int(self.unit_starts[-1]) != n
            or (np.diff(self.unit_starts.astype(np.int64)) < 1).any()
        ):
            raise DamagedError(f"{path}: the units do not cut the rows of the plan")

    @property
    def source(self) -> dict[str, Any]:
        """Source of the rows, as Source.describe returned it; {} if the segment only retires ids."""
        value = self.meta.get("source")
        return value if isinstance(value, dict) else {}

    def rows(self, start: int, stop: int) -> Rows:
        """Return the rows ``start`` to ``stop`` - 1 of the segment."""
        where = np.arange(start, stop)
        return Rows(
            self.ids[start:stop],
            list(self.keys.take(where)),
            self.views[start:stop],
            self.sizes[start:stop],
            self.mtimes[start:stop],
            self.offsets[start:stop] if self.offsets is not None else np.full(stop - start, -1, np.int64),
            list(self.locations.take(where)) if self.locations is not None else None,
            self.regions[start:stop] if self.regions is not None else None,
        )


def folder(store: Path, epoch: int) -> Path:
    """Return the folder of the plan's segments."""
    return store / folders.PLAN / f"{epoch:06d}"


def segment_path(store: Path, epoch: int, number: int) -> Path:
    """Return the path of segment ``number`` of the plan in ``epoch``."""
    return folder(store, epoch) / f"{number:06d}.h5"


class Plan:
    """The plan of a store in one epoch (a state of the store that lasts until the next compaction): its segments at the
    time of opening.

    Attributes: ``segments``, ``next_id``, ``next_unit``, ``retired`` (sorted ids).
    """

    def __init__(self, store: Path, epoch: int) -> None:
        self.store, self.epoch = store, epoch
        paths = written.numbered(store, folders.PLAN, epoch, "a segment of the plan")
        self.segments = [Segment(path) for path in paths]
        last = self.segments[-1].meta if self.segments else {"next_id": 0, "next_unit": epoch * UNITS_OF_EPOCH}
        try:
            self.next_id, self.next_unit = int(last["next_id"]), int(last["next_unit"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DamagedError(f"{self.segments[-1].file.path}: the plan's counters are missing") from None
        self._arrange()
        self._check_numbers()
        if (np.diff(self._first_ids) <= 0).any():
            raise DamagedError(f"{folder(store, epoch)}: the segments of the plan are not in the order of their ids")

    def _arrange(self) -> None:
        self.retired: Ids = ascending([segment.retired for segment in self.segments])
        self._filled = [segment for segment in self.segments if len(segment.ids)]
        self._first_ids = np.array([segment.ids[0] for segment in self._filled], np.int64)
        self._first_rows = np.cumsum([0, *(len(segment.ids) for segment in self._filled)])

    def _check_numbers(self) -> None:
        """Raise DamagedError if an id or a unit of the segment has a number that this plan cannot have assigned."""
        fits = 0 <= self.next_id <= LARGEST_ID and self.epoch == self.next_unit // UNITS_OF_EPOCH
        for segment in self._filled:
            fits = fits and 0 <= int(segment.ids[0]) <= int(segment.ids[-1]) < self.next_id
            fits = fits and int(segment.unit_numbers.max()) < self.next_unit
        if not fits:
            raise DamagedError(f"{folder(self.store, self.epoch)}: the plan's numbers of ids and units cannot be")

    @property
    def generation(self) -> tuple[int, int]:
        """The pair (epoch, number of segments); it grows with every change of the plan."""
        return self.epoch, len(self.segments)

    def __len__(self) -> int:
        """Return the number of live rows (rows that are not retired)."""
        return sum(len(segment.ids) for segment in self.segments) - len(self.retired)

    def is_retired(self, ids: Ids) -> NDArray[np.bool_]:
        """Return a mask (m,) of those of ``ids`` that are retired."""
        return member(ids, self.retired)

    def find(self, digest: NDArray[np.uint64]) -> Ids:
        """Return for each key digest (m, 2) the id of the live row with this key; -1 if there is none."""
        found = np.full(len(digest), -1, np.int64)
        active = np.arange(len(digest))
        for segment in reversed(self._filled):
            rows = segment.index.find(digest[active])
            hit = np.flatnonzero(rows >= 0)
            ids = segment.ids[rows[hit]]
            counts = ~self.is_retired(ids)
            found[active[hit[counts]]] = ids[counts]
            active = np.delete(active, hit[counts])
            if not active.size:
                break
        return found

    def holds(self, index: KeyIndex) -> NDArray[np.bool_]:
        """Return for each row of a table with the key lookup ``index`` whether its key is that of a live row."""
        held = np.zeros(len(index.row), bool)
        held[index.places()] = self.find(np.stack([index.hi, index.lo], axis=1)) >= 0
        return held

    def find_keys(self, keys: Sequence[bytes], view: int = 0) -> Ids:
        """Return for each key the id of the live row with this key; -1 if there is none."""
        return self.find(digests(keys, [view] * len(keys) if view else None))

    def _by_segment(self, ids: Ids) -> Iterator[tuple[Segment, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (segment, indices into ``ids``, rows (m,) of these ids in the segment) for each segment with some of
        ``ids``.
        """
        owner = np.searchsorted(self._first_ids, ids, side="right") - 1
        for number in np.unique(owner):
            places = np.flatnonzero(owner == number)
            segment = self._filled[int(number)]
            yield segment, places, place(ids[places], segment.ids)

    @property
    def planned(self) -> int:
        """The number of all rows, live and retired."""
        return int(self._first_rows[-1])

    def places(self, ids: Ids) -> NDArray[np.int64]:
        """Return the index of each id among all rows of the plan, (m,) int64; every id must be in the plan."""
        among = np.zeros(len(ids), np.int64)
        for segment, places, rows in self._by_segment(ids):
            among[places] = self._first_rows[self._filled.index(segment)] + rows
        return among

    def stat(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return each id's file size, mtime in ns, and byte offset in its archive, as last recorded; -1 if unknown."""
        sizes, mtimes, offsets = (np.full(len(ids), -1, np.int64) for _ in range(3))
        for segment, places, rows in self._by_segment(ids):
            sizes[places], mtimes[places] = segment.sizes[rows], segment.mtimes[rows]
            if segment.offsets is not None:
                offsets[places] = segment.offsets[rows]
        for segment in self.segments:
            if len(segment.touched):
                known = np.flatnonzero(member(ids, segment.touched))
                rows = place(ids[known], segment.touched)
                sizes[known], mtimes[known] = (values[rows] for values in segment.touched_stat)
        return sizes, mtimes, offsets

    @property
    def has_regions(self) -> bool:
        """Whether any row is a region of a picture."""
        return any(segment.regions is not None for segment in self.segments)

    def regions(self, ids: Ids) -> NDArray[np.int32]:
        """Return the region of each id as an array (m, 5); the columns are those of Rows.regions."""
        found = np.zeros((len(ids), 5), np.int32)
        for segment, places, rows in self._by_segment(ids) if self.has_regions else ():
            if segment.regions is not None:
                found[places] = segment.regions[rows]
        return found

    def key_of(self, ids: Ids) -> list[bytes]:
        """Return the key of each id."""
        keys = [b""] * len(ids)
        for segment, places, rows in self._by_segment(ids):
            for at, key in zip(places.tolist(), segment.keys.take(rows), strict=True):
                keys[at] = key
        return keys

    def sources(self) -> dict[str, dict[str, Any]]:
        """Return a dict from the name of each source to its newest description."""
        return {source_name(segment.source): segment.source for segment in self.segments if segment.source}

    def source_names(self, ids: Ids) -> NDArray[np.object_]:
        """Return the name of each id's source."""
        names = np.full(len(ids), "", object)
        for segment, places, _ in self._by_segment(ids):
            names[places] = source_name(segment.source)
        return names

    def units(self) -> list[Unit]:
        """Return the units in the order of their ids."""
        return [
            Unit(
                int(number), index, int(start), int(stop), int(segment.ids[int(start)]), int(segment.ids[int(stop) - 1])
            )
            for index, segment in enumerate(self.segments)
            for number, start, stop in zip(
                segment.unit_numbers, segment.unit_starts[:-1], segment.unit_starts[1:], strict=True
            )
        ]

    def rows(self, unit: Unit) -> Rows:
        """Return the rows of a unit."""
        return self.segments[unit.segment].rows(unit.start, unit.stop)


def source_name(source: dict[str, Any]) -> str:
    """Return the text that identifies a source, made of its kind and location."""
    return f"{source.get('kind', '?')}:{source.get('location', '?')}"


@dataclass
class NewSegment:
    """Content of a new plan segment.

    ``unit_numbers``, ``unit_starts``: number and first row of each unit. ``about``: ``versions`` (number of label
    versions when the scan began) or ``compacted`` (true if a compaction wrote the segment). ``denied``: arrays of the
    denylist.
    """

    rows: Rows
    unit_numbers: NDArray[np.uint64]
    unit_starts: NDArray[np.uint64]
    retired: Ids
    why: NDArray[np.uint8]
    touched: tuple[Ids, NDArray[np.int64], NDArray[np.int64]]
    source: dict[str, Any]
    next_id: int
    next_unit: int
    about: dict[str, Any] = field(default_factory=dict)
    denied: dict[str, NDArray[Any]] = field(default_factory=dict)


def cut(n: int, unit_rows: int) -> NDArray[np.uint64]:
    """Divide n rows into units of ``unit_rows`` rows; return the first row of each unit, followed by n."""
    return np.append(np.arange(0, n, unit_rows), n).astype(np.uint64) if n else np.zeros(1, np.uint64)


def write_segment(path: Path, new: NewSegment, digest: NDArray[np.uint64]) -> None:
    """Write a segment; raise FileExistsError if another process took its number."""
    rows = new.rows
    store = path.parent.parent.parent
    folders.make(store, folders.PLAN, path.parent.name)
    retired = np.argsort(new.retired, kind="stable")
    touched = np.argsort(new.touched[0], kind="stable")
    arrays: dict[str, NDArray[Any]] = {
        "id": rows.ids.astype(np.uint64),
        "view": rows.views.astype(np.uint32),
        "size": rows.sizes.astype(np.int64),
        "mtime": rows.mtimes.astype(np.int64),
        **ByteColumn.of(rows.keys).arrays("keys"),
        **KeyIndex.build(digest).arrays(),
        "units/number": new.unit_numbers.astype(np.uint64),
        "units/start": new.unit_starts.astype(np.uint64),
        "retired/id": new.retired[retired].astype(np.uint64),
        "retired/why": new.why[retired].astype(np.uint8),
        "touched/id": new.touched[0][touched].astype(np.uint64),
        "touched/size": new.touched[1][touched],
        "touched/mtime": new.touched[2][touched],
        **new.denied,
    }
    if (rows.offsets >= 0).any():
        arrays["offset"] = rows.offsets
    if rows.locations is not None:
        arrays.update(ByteColumn.of(rows.locations).arrays("location"))
    if rows.regions is not None and rows.regions[:, 4].any():
        arrays["region"] = rows.regions.astype(np.int32)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    own = {"source": new.source, "next_id": new.next_id, "next_unit": new.next_unit, "created": created}
    summary = {"rows": len(rows), "units": len(new.unit_numbers), "retired": len(new.retired)}
    sealed.write(path, KIND, arrays, {**new.about, **own}, summary, exclusive=True)
    written.mark(store, path)
