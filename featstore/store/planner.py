"""Compare a source with the plan: append new and changed pictures, and retire vanished pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.sources.base import Chunk, Source
from featstore.store import plan as plans
from featstore.store import tables
from featstore.store.as_source import KIND
from featstore.store.cuts import for_doubled_key, picture_order, require_regions, require_same_cut
from featstore.store.denylist import Denylist
from featstore.store.ids import Ids
from featstore.store.keys import KeyIndex, digests
from featstore.store.plan import NewSegment, Plan, cut, source_name
from featstore.store.rows import Rows
from featstore.text import counted, quoted

MISSING = -1
_ATTEMPTS = 100


@dataclass
class Change:
    """Numbers of pictures in an update of the plan; ``listed`` = added + changed + retried + unchanged + denied.

    ``denied``: pictures that ``featstore remove`` removed, and that are not added again.
    """

    listed: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    retried: int = 0
    relabelled: int = 0
    denied: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the numbers of pictures as JSON types."""
        return asdict(self)


@dataclass
class _Buffer:
    """Rows that wait for the next plan segment, and their labels, splits and metadata for the next table."""

    keys: list[bytes] = field(default_factory=list)
    locations: list[bytes] = field(default_factory=list)
    relocated: bool = False
    regions: list[NDArray[np.int32]] = field(default_factory=list)
    stats: list[NDArray[np.int64]] = field(default_factory=list)
    digest: list[NDArray[np.uint64]] = field(default_factory=list)
    retired: list[Ids] = field(default_factory=list)
    why: list[NDArray[np.uint8]] = field(default_factory=list)
    touched: list[NDArray[np.int64]] = field(default_factory=list)
    side_keys: list[bytes] = field(default_factory=list)
    side: dict[str, list[tables.Value]] = field(default_factory=dict)
    side_digest: list[NDArray[np.uint64]] = field(default_factory=list)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int32]]:
        """Return the rows as arrays: sizes, mtimes, archive offsets (3, n), digests of keys (n, 2), regions (n, 5)."""
        return (
            np.concatenate(self.stats, axis=1) if self.stats else np.empty((3, 0), np.int64),
            np.concatenate(self.digest) if self.digest else np.empty((0, 2), np.uint64),
            np.concatenate(self.regions) if self.regions else np.empty((0, 5), np.int32),
        )


Hasher = Callable[[Chunk, NDArray[np.int64]], NDArray[np.uint8]]
"""Function that reads pictures: (chunk, rows (n,)) -> SHA-256 of each picture, (n, 32) uint8; zeros if unreadable."""
Known = Callable[[Ids], NDArray[np.uint8]]
"""Function that looks up recorded checksums: ids (n,) -> SHA-256 of each picture, (n, 32) uint8; zeros if unknown."""


class Planner:
    """Update a store's plan from one source.

    If ``hasher`` and ``known`` are given, changes are detected by content instead of size and time (``--rehash``).
    ``retry``: failed ids to try again.
    """

    def __init__(
        self,
        store: Path,
        epoch: int,
        unit_rows: int,
        *,
        hasher: Hasher | None = None,
        known: Known | None = None,
    ) -> None:
        self.store, self.epoch, self.unit_rows = store, epoch, unit_rows
        self.hasher, self.known = hasher, known
        self.segment_rows = max(1, plans.SEGMENT_ROWS // unit_rows) * unit_rows

    def update(self, source: Source, retry: Callable[[Plan], Ids] | None = None) -> Change:
        """Scan ``source`` and append its new and changed pictures to the plan.

        Raises UsageError for duplicate keys, and for keys that belong to another source with other content.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._scan(source, retry)
            except FileExistsError:
                # Another process appended a segment first: compare the source again, now with a plan that has this
                # segment.
                continue
        raise UsageError(f"{self.store}: other processes keep changing the plan; run again when they are done")

    def _scan(self, source: Source, retry: Callable[[Plan], Ids] | None) -> Change:
        self.plan, self.tables = Plan(self.store, self.epoch), tables.Tables(self.store, self.epoch)
        self.source = source.describe()
        require_same_cut(self.store, self.plan, self.source)
        if self.tables.follows is not None and self.source.get("store_id") != self.tables.store_id:
            raise UsageError(
                f"{self.store}: has the labels of {self.tables.follows['store']}, so its pictures come from there too: "
                f"extract these pictures into that store, and then: featstore extract {self.tables.follows['store']} {self.store}"
            )
        self.denylist = Denylist.of(self.plan)
        self.from_text = source.kind in ("table", "tar")
        self.buffer, self.change = _Buffer(), Change()
        self.retried = KeyIndex.build(np.empty((0, 2), np.uint64))
        first_new = self.plan.next_id
        # One bit per row of the plan, not per id: an untrusted plan may use very large ids.
        seen = np.zeros(self.plan.planned // 8 + 1, np.uint8)
        if retry is not None:
            self._retry(retry(self.plan))
        for chunk in source.chunks():
            self._chunk(chunk, seen, first_new)
            while len(self.buffer.keys) >= self.segment_rows:
                self._flush(self.segment_rows)
        self._remove(seen, first_new)
        self._flush(len(self.buffer.keys))
        return self.change

    def _chunk(self, chunk: Chunk, seen: NDArray[np.uint8], first_new: int) -> None:
        self.change.listed += len(chunk.keys)
        if len(self.denylist):
            denied = self.denylist.denies_keys(chunk.keys)
            self.change.denied += int(denied.sum())
            chunk = chunk.take(np.flatnonzero(~denied)) if denied.any() else chunk
        digest = digests(chunk.keys)
        ids = self.plan.find(digest)
        old = np.flatnonzero((ids >= 0) & (ids < first_new))
        twice = np.flatnonzero(ids >= first_new)
        places = self.plan.places(ids[old])
        if not twice.size and old.size:
            known, counts = np.unique(places, return_counts=True)
            again = known[(counts > 1) | _bits(seen, known)]
            twice = old[np.flatnonzero(np.isin(places, again))[-1:]]
        if twice.size:
            self._refuse_doubled(chunk.keys[int(twice[0])])
        np.bitwise_or.at(seen, places >> 3, (1 << (places & 7)).astype(np.uint8))

        stat = np.stack([chunk.sizes, chunk.mtimes, chunk.offsets])
        same = self._same(chunk, stat, ids, old)
        self._check_owner(chunk, ids, old[~same])
        if self.source.get("kind") != KIND:
            # If the source is a store, as_source.py copies labels, splits and metadata.
            self._side(chunk, digest)
        changed = old[~same]
        self._retire(ids[changed], plans.CHANGED)
        self.change.changed += len(changed)
        self.change.unchanged += int(same.sum())
        new = np.flatnonzero(ids < 0)
        retried = int((self.retried.find(digest[new]) >= 0).sum())
        self.change.retried += retried
        self.change.added += len(new) - retried
        append = np.sort(np.concatenate([new, changed]))
        self._append(
            [chunk.keys[i] for i in append.tolist()],
            None if chunk.locations is None else [chunk.locations[i] for i in append.tolist()],
            np.zeros((len(append), 5), np.int32) if chunk.regions is None else chunk.regions[append],
            stat[:, append],
            digest[append],
        )

    def _same(self, chunk: Chunk, stat: NDArray[np.int64], ids: Ids, old: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return a mask of the unchanged pictures among the rows ``old`` of the chunk, whose keys are in the plan."""
        same: NDArray[np.bool_] = (stat[:, old] == np.stack(self.plan.stat(ids[old]))).all(axis=0)
        moved_box = np.zeros(len(old), bool)
        if chunk.regions is not None or self.plan.has_regions:
            regions = np.zeros((len(old), 5), np.int32) if chunk.regions is None else chunk.regions[old]
            moved_box = (regions != self.plan.regions(ids[old])).any(axis=1)
            same &= ~moved_box
        if self.hasher is not None and self.known is not None and old.size:
            ours = self.known(ids[old])
            hashed = np.flatnonzero(ours.any(axis=1))
            theirs = self.hasher(chunk, old[hashed])
            equal = (ours[hashed] == theirs).all(axis=1)
            # Equal bytes with a new modification time: record the time, so that a run without --rehash finds no change.
            moved = old[hashed[equal & ~same[hashed] & ~moved_box[hashed]]]
            if moved.size and not (stat[2, moved] >= 0).any():
                self.buffer.touched.append(np.stack([ids[moved], stat[0, moved], stat[1, moved]]))
            same[hashed] = equal & ~moved_box[hashed]
        return same

    def _check_owner(self, chunk: Chunk, ids: Ids, changed: NDArray[np.int64]) -> None:
        ours = source_name(self.source)
        names = self.plan.source_names(ids[changed])
        foreign = changed[names != ours]
        if foreign.size:
            key, other = quoted(chunk.keys[int(foreign[0])]), str(names[names != ours][0])
            raise UsageError(
                f"{counted(len(foreign), f'key of {ours} is', f'keys of {ours} are')} in the store already, from {other}, with other content (the first: {key}); "
                f"extract them into a store of their own, or name {other.partition(':')[2]} as the source and say with --root where its pictures are now"
            )

    def _side(self, chunk: Chunk, digest: NDArray[np.uint64]) -> None:
        values: dict[str, list[tables.Value]] = {tables.LABEL: list(chunk.labels), tables.SPLIT: list(chunk.splits)}
        values.update({name: list(column) for name, column in chunk.metadata.items() if name not in values})
        hashes = tables.row_digests(values, len(chunk.keys))
        known, before = self.tables.source_rows(digest)
        different = np.flatnonzero(~known | (before != hashes))
        self.change.relabelled += int((known & (before != hashes)).sum())
        rows = different.tolist()
        if not rows:
            return
        n = len(self.buffer.side_keys)
        self.buffer.side_keys += [chunk.keys[i] for i in rows]
        self.buffer.side_digest.append(hashes[different])
        for name, column in values.items():
            self.buffer.side.setdefault(name, [None] * n).extend(column[i] for i in rows)

    def _retire(self, ids: Ids, why: int) -> None:
        self.buffer.retired.append(ids)
        self.buffer.why.append(np.full(len(ids), why, np.uint8))

    def _append(
        self,
        keys: list[bytes],
        locations: list[bytes] | None,
        regions: NDArray[np.int32],
        stat: NDArray[np.int64],
        digest: NDArray[np.uint64],
    ) -> None:
        self.buffer.keys += keys
        self.buffer.locations += locations if locations is not None else keys
        self.buffer.relocated |= locations is not None
        self.buffer.regions.append(regions)
        self.buffer.stats.append(stat)
        self.buffer.digest.append(digest)

    def _retry(self, ids: Ids) -> None:
        """Retire the failed ``ids`` that belong to the source, so that the scan adds their pictures again."""
        if not len(ids):
            return
        names = self.plan.source_names(ids)
        ids = ids[names == source_name(self.source)]
        self._retire(ids, plans.RETRIED)
        self.plan.retired = np.union1d(self.plan.retired, ids)
        self.retried = KeyIndex.build(digests(self.plan.key_of(ids)))

    def _remove(self, seen: NDArray[np.uint8], first_new: int) -> None:
        ours = source_name(self.source)
        for segment in self.plan.segments:
            if source_name(segment.source) != ours or not len(segment.ids):
                continue
            ids = segment.ids[segment.ids < first_new]
            gone = ids[~_bits(seen, self.plan.places(ids))]
            gone = gone[~self.plan.is_retired(gone)]
            self._retire(gone, plans.REMOVED)
            self.change.removed += len(gone)

    def _flush(self, n: int) -> None:
        """Write the labels of the first n buffered rows as a table, and then these rows as a segment of the plan.

        If the process is killed between these two writes, the next scan adds the missing rows.
        """
        buffer, plan, versions = self.buffer, self.plan, self.tables.version
        if buffer.side_keys:
            self._write_table()
        stats, digest, regions = buffer.arrays()
        retired = np.concatenate(buffer.retired) if buffer.retired else np.empty(0, np.int64)
        touched = np.concatenate(buffer.touched, axis=1) if buffer.touched else np.empty((3, 0), np.int64)
        if not n and not len(retired) and not touched.size:
            return
        self._refuse_doubled_rows(buffer.keys[:n], digest[:n])
        if regions[:n, 4].any():
            require_regions(self.store)
        starts = cut(n, self.unit_rows)
        rows = Rows(
            np.arange(plan.next_id, plan.next_id + n),
            buffer.keys[:n],
            np.zeros(n, np.uint32),
            stats[0, :n],
            stats[1, :n],
            stats[2, :n],
            buffer.locations[:n] if buffer.relocated else None,
            regions[:n],
        )
        order = picture_order(rows.keys, regions[:n])
        if order is not None:
            rows, digest = replace(rows.take(order), ids=rows.ids), digest.copy()
            digest[:n] = digest[order]
        new = NewSegment(
            rows,
            np.arange(plan.next_unit, plan.next_unit + len(starts) - 1, dtype=np.uint64),
            starts,
            retired,
            np.concatenate(buffer.why) if buffer.why else np.empty(0, np.uint8),
            (touched[0], touched[1], touched[2]),
            self.source,
            plan.next_id + n,
            plan.next_unit + len(starts) - 1,
            {"versions": versions},
        )
        plans.write_segment(plans.segment_path(self.store, self.epoch, len(plan.segments)), new, digest[:n])
        rest = [regions[n:]], [stats[:, n:]], [digest[n:]]
        self.buffer = _Buffer(buffer.keys[n:], buffer.locations[n:], buffer.relocated, *rest)
        self.plan = Plan(self.store, self.epoch)

    def _write_table(self) -> None:
        buffer = self.buffer
        columns: dict[str, Sequence[tables.Value] | tables.Column] = {}
        for name, values in buffer.side.items():
            typed = self.from_text and name not in (tables.LABEL, tables.SPLIT)
            columns[name] = tables.Column.of_text(values) if typed else tables.Column.of(values)
        # Check for duplicate keys before the table is written; the rows of the segment are checked only after that.
        order = np.unique(digests(buffer.side_keys), axis=0, return_index=True)[1]
        if len(order) != len(buffer.side_keys):
            self._refuse_doubled_rows(buffer.side_keys, digests(buffer.side_keys))
        path = tables.table_path(self.store, self.epoch, self.tables.version)
        about = {"generation": self.plan.generation}
        tables.write_table(path, buffer.side_keys, columns, "source", np.concatenate(buffer.side_digest), about=about)
        self.tables = tables.Tables(self.store, self.epoch)
        buffer.side_keys, buffer.side, buffer.side_digest = [], {}, []

    def _refuse_doubled_rows(self, keys: list[bytes], digest: NDArray[np.uint64]) -> None:
        doubled = KeyIndex.build(digest).doubled()
        if doubled is not None:
            self._refuse_doubled(keys[doubled[0]])

    def _refuse_doubled(self, key: bytes) -> None:
        raise UsageError(
            f"{self.source.get('location')}: the key {quoted(key)} is there more than once; "
            f"{for_doubled_key(self.source)}"
        )


def _bits(seen: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (seen[places >> 3] >> (places & 7).astype(np.uint8)) & 1 == 1
    return found
