"""Compaction: purge retired rows, merge small shards, and switch atomically to the new files.

An epoch is one generation of plan and table files. The next epoch is written beside the current one, and changed shards
get numbers of the next epoch. Replacing featstore.json switches to the next epoch; only then are the old files removed.
If the process is killed, unused files of the new or the old epoch remain; the next compaction removes them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.files import atomic
from featstore.store import folders, history, shards, tables, written
from featstore.store import plan as plans
from featstore.store.claims import COMPACTION, Claims, work_folder
from featstore.store.denylist import Denylist
from featstore.store.feature_store import FeatureStore
from featstore.store.ids import Ids
from featstore.store.keys import digests
from featstore.store.live_rows import shard_names
from featstore.store.manifest import Manifest, require_no_purge
from featstore.store.plan import NewSegment, Plan, Unit, source_name
from featstore.store.rows import Rows, merged
from featstore.store.shards import Failure, Finished, Shard

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class CompactReport:
    """Result of a compaction.

    ``purged``: number of purged rows. ``bytes_before`` and ``bytes_after``: total size of all shards.
    ``strangers``: files that featstore did not write; they are left unchanged.
    """

    purged: int
    shards_before: int
    shards_after: int
    shards_rewritten: int
    bytes_before: int
    bytes_after: int
    strangers: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the compaction as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class _Group:
    """Units (row ranges) to merge into one unit; a group of one unit is not rewritten if it keeps all its rows."""

    units: list[Unit]
    rows: int
    kept: bool


def compact_store(store: str | os.PathLike[str]) -> CompactReport:
    """Purge retired rows from shards, plan and tables, and merge neighbouring small shards.

    Ids do not change. A FeatureStore that was opened before keeps its rows. Raises FeatstoreError while another process
    writes to the store. Raises DamagedError, before any change, if a shard belongs to no unit of the plan or a file is
    missing.
    """
    path = Path(store)
    FeatureStore(path)
    with Claims(path) as claims:
        claims.exclusive()
        require_no_purge(path)
        return Compaction(path, claims).run()


class Compaction:
    """A compaction of the store at ``path``, which ``claims`` holds exclusively.

    ``purge``: also erase the keys of all pictures on the denylist, from tables and history.
    """

    def __init__(self, path: Path, claims: Claims, *, purge: bool = False) -> None:
        self.path, self.claims, self.purge = path, claims, purge
        self.store = FeatureStore(path)
        self.plan = self.store._plan
        self.denylist = Denylist.of(self.plan)
        self.next = self.store._manifest.next_epoch().requiring(history.FEATURE)
        self.done = {unit.number for unit in self.store.units} - {unit.number for unit in self.store._pending_units()}

    def run(self) -> CompactReport:
        """Write and switch to the next epoch, and remove the files of the old epoch. Raises compact_store's errors."""
        self._refuse_outside()
        before = self._sizes()
        if not self.plan.segments:
            # The plan is empty, so the next epoch would be empty too.
            return CompactReport(0, len(before), len(before), 0, sum(before), sum(before), folders.strangers(self.path))
        self._clean()
        groups = self._groups()
        self._refuse_damaged(groups)
        rewritten = self._write_epoch(groups)
        self._write_tables()
        erased = self.denylist.erased(all_denied=self.purge).denies_keys
        versions = history.label_versions(self.store._tables)
        history.write_history(self.path, self.plan, versions, self._had_vector, erased)
        history.forget_keys(self.path, erased)
        purged = len(self.plan.retired)
        self.next.write(self.path)
        self._clean()
        after = self._sizes()
        strangers = folders.strangers(self.path)
        return CompactReport(purged, len(before), len(after), rewritten, sum(before), sum(after), strangers)

    def _refuse_outside(self) -> None:
        """Raise DamagedError if a shard belongs to no unit: a part of the plan is lost, and must be restored first."""
        planned = {shards.shard_path(self.path, unit.number).name for unit in self.store.units}
        strays = written.unplanned_shards(self.path, self.store._manifest.epoch, shard_names(self.path), planned)
        if strays:
            raise DamagedError(
                f"{shards.folder(self.path) / strays[0]}: belongs to no unit of the plan, of which a part is lost "
                f"({len(strays):,} such shards); nothing was compacted: restore the plan from a copy, or let "
                f"featstore repair {self.path} set them aside"
            )

    def _refuse_damaged(self, runs: list[list[_Group]]) -> None:
        """Raise DamagedError if a file to be copied is damaged: the new file's valid checksum would hide the damage."""
        copied = [group for groups in runs for group in groups if not group.kept and self._mergeable(group)]
        files = [segment.file for segment in self.plan.segments] + [table.file for table in self.store._tables.own]
        files += [self.store._shard(unit).file for group in copied for unit in group.units]
        for file in files:
            if damages := file.verify():
                raise DamagedError(
                    f"{damages[0]}; nothing was compacted: run featstore repair {self.path}, then compact again"
                )

    def _sizes(self) -> list[int]:
        return [os.lstat(shards.folder(self.path) / name).st_size for name in shard_names(self.path)]

    def _clean(self) -> None:
        """Remove featstore's files that the plan and tables in use do not need, such as files of a killed compaction.

        The mark that a file is complete (written.py) is removed before the file.
        """
        epoch = Manifest.read(self.path).epoch
        units = Plan(self.path, epoch).units()
        kept = {shards.shard_path(self.path, unit.number).name for unit in units}
        gone = shard_names(self.path) - kept
        prefixes = (f"{folders.PLAN}-{epoch:06d}-", f"{folders.TABLES}-{epoch:06d}-")
        known = {f"{folders.SHARDS}-{name.removesuffix('.h5')}" for name in kept}
        history.remove_unfinished(self.path, epoch)
        known |= {written.mark_of(path) for path in history.history_files(self.path)}
        marks = written.marks(self.path)
        written.unmark(self.path, *(name for name in marks if not name.startswith(prefixes) and name not in known))
        for folder in (folders.PLAN, folders.TABLES):
            for name in self._listed(folder, folders.EPOCH):
                if name != f"{epoch:06d}":
                    folders.remove_folder(self.path, folder, name)
        for name in [*gone, *self._listed(folders.SHARDS, folders.TEMPORARY_SHARD)]:
            folders.remove_file(self.path, folders.SHARDS, name)
        if shards.folder(self.path).is_dir():
            atomic.sync(shards.folder(self.path))
        planned = {work_folder(self.path, unit.number).name for unit in units} | {COMPACTION}
        for name in self._listed(folders.WORK, folders.WORK_FOLDER):
            # A claim with a live owner belongs to a process that will notice the compaction and stop.
            if name not in planned and self.claims.holder(name) is None:
                with contextlib.suppress(OSError):
                    folders.remove_folder(self.path, folders.WORK, name)

    def _listed(self, folder: str, pattern: re.Pattern[str]) -> list[str]:
        try:
            return folders.names(self.path, folder, pattern=pattern)
        except FileNotFoundError:
            return []

    def _had_vector(self, ids: Ids) -> NDArray[np.bool_]:
        of = (unit for unit in self.store.units if unit.number in self.done and self._live(unit) < len(unit))
        return history.vectors_of((self.store._shard(unit) for unit in of), ids)

    def _live(self, unit: Unit) -> int:
        ids = self.plan.segments[unit.segment].ids[unit.start : unit.stop]
        return int((~self.plan.is_retired(ids)).sum())

    def _groups(self) -> list[list[_Group]]:
        """Return, for each source of pictures, the groups of units to merge, in the order of the row ids."""
        limit = self.store._manifest.unit_rows
        result: list[list[_Group]] = []
        units = [(unit, self._live(unit)) for unit in self.store.units]
        for _, run in itertools.groupby(units, lambda item: source_name(self.plan.segments[item[0].segment].source)):
            groups: list[_Group] = []
            for unit, live in run:
                whole = live == len(unit)
                if live == 0:
                    continue
                if unit.number not in self.done or (whole and 2 * live >= limit):
                    groups.append(_Group([unit], live, whole))
                elif groups and not groups[-1].kept and self._mergeable(groups[-1]) and groups[-1].rows + live <= limit:
                    groups[-1] = _Group([*groups[-1].units, unit], groups[-1].rows + live, False)
                else:
                    groups.append(_Group([unit], live, False))
            # A small unit without neighbours to merge with is not rewritten.
            groups = [_Group(g.units, g.rows, len(g.units) == 1 and g.rows == len(g.units[0])) for g in groups]
            if groups:
                result.append(groups)
        return result

    def _mergeable(self, group: _Group) -> bool:
        return all(unit.number in self.done for unit in group.units)

    def _write_epoch(self, runs: list[list[_Group]]) -> int:
        next_unit, rewritten = self.next.epoch * plans.UNITS_OF_EPOCH, 0
        marks = written.marks(self.path)
        folders.make(self.path, folders.PLAN, f"{self.next.epoch:06d}")
        pieces = [piece for groups in runs for piece in _segments(groups)]
        for number, groups in enumerate(pieces or [[]]):
            rows, numbers = [], []
            for group in groups:
                part = merged([self._rows(unit) for unit in group.units])
                if group.kept:
                    numbers.append(group.units[0].number)
                    shard = shards.shard_path(self.path, numbers[-1])
                    if self._mergeable(group) and written.mark_of(shard) not in marks:
                        # Shards written by an older featstore have no mark of completion yet.
                        written.mark(self.path, shard)
                else:
                    numbers.append(next_unit)
                    next_unit += 1
                    if self._mergeable(group):
                        self._write_shard(numbers[-1], group, part)
                        rewritten += 1
                rows.append(part)
            self._write_segment(number, groups, rows, numbers, next_unit)
        return rewritten

    def _rows(self, unit: Unit) -> Rows:
        rows = self.plan.rows(unit)
        live = np.flatnonzero(~self.plan.is_retired(rows.ids))
        sizes, mtimes, offsets = self.plan.stat(rows.ids[live])
        return replace(rows.take(live), sizes=sizes, mtimes=mtimes, offsets=offsets)

    def _write_segment(
        self, number: int, groups: Sequence[_Group], rows: Sequence[Rows], numbers: Sequence[int], next_unit: int
    ) -> None:
        every = merged(rows)
        none = np.empty(0, np.int64)
        source: dict[str, Any] = self.plan.segments[groups[-1].units[-1].segment].source if groups else {}
        new = NewSegment(
            every,
            np.array(numbers, np.uint64),
            np.concatenate([[0], np.cumsum([len(part) for part in rows])]).astype(np.uint64),
            none,
            np.empty(0, np.uint8),
            (none, none, none),
            source,
            self.plan.next_id,
            next_unit,
            {"compacted": True, **({} if number else self._denied().about())},
            {} if number else self._denied().arrays(),
        )
        path = plans.segment_path(self.path, self.next.epoch, number)
        plans.write_segment(path, new, digests(every.keys, every.views.tolist()))

    def _denied(self) -> Denylist:
        return self.denylist.erased(all_denied=True) if self.purge else self.denylist

    def _write_shard(self, number: int, group: _Group, rows: Rows) -> None:
        live = [(self.store._shard(unit), unit) for unit in group.units]
        kept = [(shard, np.flatnonzero(~self.plan.is_retired(shard.ids))) for shard, _ in live]
        failures = [
            (key, failure, shard.failed_sha256[at])
            for shard, _ in live
            for at, (key, failure) in enumerate(shard.failures())
            if not self.plan.is_retired(np.array([failure.id]))[0]
        ]
        finished = Finished(
            number,
            np.concatenate([shard.ids[at] for shard, at in kept]),
            np.concatenate([shard.views[at] for shard, at in kept]),
            [key for shard, at in kept for key in shard.keys.take(at)],
            np.concatenate([shard.sha256[at] for shard, at in kept]),
            [Failure(failure.id, failure.reason, failure.message) for _, failure, _ in failures],
            [key for key, _, _ in failures],
            np.array([sums for _, _, sums in failures], np.uint8).reshape(-1, 32),
        )
        made = [
            {**entry, "of_unit": unit.number, "of_store": self.store.store_id}
            for shard, unit in live
            for entry in shard.provenance
        ]
        shards.write_shard(
            shards.shard_path(self.path, number),
            self.store.identity,
            self.store.store_id,
            finished,
            _blocks(kept),
            made,
        )

    def _write_tables(self) -> None:
        directory = folders.make(self.path, folders.TABLES, f"{self.next.epoch:06d}")
        for version, table in enumerate(self.store._tables.own):
            path = tables.table_path(self.path, self.next.epoch, version)
            known = self.plan.holds(table.index)
            # A purge copies every table, because its file may still contain texts that belonged to purged rows.
            if known.all() and not self.purge:
                os.link(table.file.path, path)
                written.mark(self.path, path)
            else:
                tables.copy_rows(path, table, np.flatnonzero(known), table.about)
        atomic.sync(directory)


def _segments(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    part: list[_Group] = []
    for group in groups:
        if part and sum(g.rows for g in part) + group.rows > plans.SEGMENT_ROWS:
            yield part
            part = []
        part.append(group)
    if part:
        yield part


def _blocks(kept: Sequence[tuple[Shard, Ids]]) -> Iterator[NDArray[Any]]:
    for shard, rows in kept:
        for start in range(0, len(rows), BLOCK_ROWS):
            yield shard.features[rows[start : start + BLOCK_ROWS]]
