"""The history that compactions keep: the states of each former epoch, and the keys of purged rows.

An epoch is a plan that grows until the next compaction begins a new one. history/<epoch>.h5 is a sealed (checksummed)
HDF5 file, written by the compaction that ended the epoch. The file is small: it has four values for each plan segment
of the epoch and, for each purged row, its id, its key, and the segment that retired the row with the reason. Ids never
change and grow with time. So the live rows of a former generation are the ids below the ``next_id`` of this generation,
without the ids that were retired by then. Rows that were retired later and purged have no vector any more.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError, UsageError
from featstore.files import sealed
from featstore.files.byte_columns import ByteColumn, column
from featstore.store import folders, written
from featstore.store.ids import Ids, member
from featstore.store.plan import Plan, Segment
from featstore.store.tables import Tables

KIND = "history"
FEATURE = "history"
"""Format feature in a compacted store's ``requires``: an older featstore, which would lose the history, refuses the
store."""
HadVector = Callable[[Ids], NDArray[np.bool_]]
"""Function that takes ids and returns a mask of the ids that have a vector."""
Erased = Callable[[Sequence[bytes]], NDArray[np.bool_]]
"""Function that takes keys and returns a mask of the keys to erase."""


@dataclass(frozen=True)
class State:
    """State of the plan when ``epoch`` had ``segments`` segments.

    ``next_id``: greater than all ids of this state. ``created``: time of the last segment. ``versions``: number of
    label versions when the scan for the last segment began, -1 if an older featstore wrote the segment.
    """

    epoch: int
    segments: int
    next_id: int
    created: datetime.datetime
    versions: int


class Former:
    """A former epoch (state of the plan that a compaction ended), read from a file in the folder ``history``.

    Attributes
    ----------
    epoch : int
        Number of the epoch.
    states : list of State
        All states of the plan in this epoch.
    versions : int
        Number of label versions when the epoch ended.
    ended : datetime
        Time of the compaction that ended the epoch.
    retired, segment, had_vector : arrays (n,)
        Ids that were purged (ascending), the number of the segment that retired each, and whether it had a vector.
    keys : sequence of bytes
        Keys of the purged rows; an erased key is empty.
    """

    def __init__(self, path: Path) -> None:
        self.file = sealed.SealedFile(path, KIND, follow=False)
        self.retired: Ids = column(self.file, "retired/id", "<u8").view(np.int64)
        self.segment = column(self.file, "retired/segment", "<u4")
        self.had_vector = column(self.file, "retired/vector", "|b1")
        self.why = column(self.file, "retired/why", "|u1")
        self.keys = ByteColumn.read(self.file, "keys")
        meta = self.file.meta
        try:
            self.epoch, self.versions = int(meta["epoch"]), int(meta["versions"])
            self.ended = time_of(meta["ended"])
            self.states = [
                State(self.epoch, int(segments), int(next_id), time_of(created), int(versions))
                for segments, next_id, created, versions in meta["states"]
            ]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DamagedError(f"{path}: the description of the former epoch does not fit it") from None
        columns: list[Any] = [self.segment, self.had_vector, self.why, self.keys]
        if path.name != f"{self.epoch:06d}.h5" or any(len(values) != len(self.retired) for values in columns):
            raise DamagedError(f"{path}: the description of the former epoch does not fit it")

    def gone_since(self, segments: int, next_id: int) -> NDArray[np.int64]:
        """Return the indices of the purged rows that were live with a vector when the epoch had ``segments`` segments."""
        return np.flatnonzero((self.segment >= segments) & (self.retired < next_id) & self.had_vector)


def states_of(plan: Plan) -> list[State]:
    """Return the states of ``plan`` since the last compaction (one per plan segment), the oldest first."""
    base = sum(bool(segment.meta.get("compacted")) for segment in plan.segments)
    return [
        _state(plan.epoch, number, plan.segments[number - 1]) for number in range(max(1, base), len(plan.segments) + 1)
    ]


def _state(epoch: int, segments: int, last: Segment) -> State:
    versions = last.meta.get("versions", -1)
    try:
        return State(epoch, segments, int(last.meta["next_id"]), time_of(last.meta["created"]), int(versions))
    except (KeyError, TypeError, ValueError):
        raise DamagedError(f"{last.file.path}: the segment does not say when it was written") from None


def time_of(text: str) -> datetime.datetime:
    """Parse a date and time in ISO format (without an offset: UTC). Raises TypeError or ValueError for anything else."""
    moment = datetime.datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)


def write_history(store: Path, plan: Plan, versions: int, had_vector: HadVector, erased: Erased) -> None:
    """Write the history file of the epoch that a compaction of ``plan`` ends.

    ``versions``: number of label versions. Keys for which ``erased`` is true are left out.
    """
    path = folders.make(store, folders.HISTORY) / f"{plan.epoch:06d}.h5"
    retired, segment, why = _retirements(plan)
    keys = plan.key_of(retired)
    left = [b"" if drop else key for key, drop in zip(keys, erased(keys).tolist(), strict=True)]
    arrays: dict[str, NDArray[Any]] = {
        "retired/id": retired.astype(np.uint64),
        "retired/segment": segment,
        "retired/why": why,
        "retired/vector": had_vector(retired),
        **ByteColumn.of(left).arrays("keys"),
    }
    states = [(s.segments, s.next_id, s.created.isoformat(), s.versions) for s in states_of(plan)]
    ended = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    meta = {"epoch": plan.epoch, "versions": versions, "ended": ended, "states": states}
    # The file exists already if an earlier compaction wrote it and was killed before it switched to the next epoch.
    sealed.write(path, KIND, arrays, meta, {"purged": len(retired)})
    written.mark(store, path)


def _retirements(plan: Plan) -> tuple[Ids, NDArray[np.uint32], NDArray[np.uint8]]:
    """Return three arrays: the retired ids (ascending), the number of the first segment that retired each id, and the
    reason.
    """
    retired = plan.retired
    segment, why = np.zeros(len(retired), np.uint32), np.zeros(len(retired), np.uint8)
    for number in range(len(plan.segments) - 1, -1, -1):
        places = np.searchsorted(retired, plan.segments[number].retired)
        segment[places], why[places] = number, plan.segments[number].why
    return retired, segment, why


def former_epochs(store: Path, epoch: int) -> list[Former]:
    """Return the former epochs whose history is known, the oldest first.

    Epochs that were compacted by a featstore without history are unknown, and so are all epochs before them. Raises
    DamagedError for a lost or damaged file.
    """
    numbers = {int(name[:6]) for name in _names(store)}
    lost = sorted(
        int(mark[-6:]) for mark in written.marks(store) if mark.startswith("history-") and int(mark[-6:]) not in numbers
    )
    if lost:
        path = store / folders.HISTORY / f"{lost[0]:06d}.h5"
        raise DamagedError(f"{path}: is missing, and with it the store's past; restore it from a copy")
    known = []
    for number in range(epoch - 1, -1, -1):
        if number not in numbers:
            break
        known.append(Former(store / folders.HISTORY / f"{number:06d}.h5"))
    return known[::-1]


def forget_keys(store: Path, erased: Erased) -> int:
    """Rewrite the history without the keys for which ``erased`` is true; return their number.

    Ids, reasons and dates stay, so that past states report these rows as missing. Each file is replaced atomically.
    """
    forgotten = 0
    for name in _names(store):
        former = Former(store / folders.HISTORY / name)
        keys = list(former.keys)
        gone = np.asarray(erased(keys), bool) & np.array([key != b"" for key in keys], bool)
        if gone.any():
            left = [b"" if drop else key for key, drop in zip(keys, gone.tolist(), strict=True)]
            arrays = {
                one: former.file[one] for one in former.file.names if one != "meta" and not one.startswith("keys/")
            }
            arrays.update(ByteColumn.of(left).arrays("keys"))
            sealed.write(former.file.path, KIND, arrays, former.file.meta, former.file.summary)
            forgotten += int(gone.sum())
    return forgotten


def remove_unfinished(store: Path, epoch: int) -> None:
    """Remove history files of ``epoch`` or later, left by a compaction that was killed before it ended that epoch."""
    for name in _names(store):
        if int(name[:6]) >= epoch:
            written.unmark(store, f"history-{name[:6]}")
            folders.remove_file(store, folders.HISTORY, name)
    with contextlib.suppress(FileNotFoundError):
        for name in folders.names(store, folders.HISTORY, pattern=folders.TEMPORARY_NUMBERED):
            folders.remove_file(store, folders.HISTORY, name)


def history_files(store: Path) -> list[Path]:
    """Return the paths of all files in the store's folder "history", one for each past compaction."""
    return [store / folders.HISTORY / name for name in _names(store)]


def _names(store: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return folders.names(store, folders.HISTORY, pattern=folders.NUMBERED)
    return []


def vectors_of(shards: Iterator[Any], ids: Ids) -> NDArray[np.bool_]:
    """Return for each of ``ids`` (ascending) whether one of the ``shards`` has its vector."""
    had = np.zeros(len(ids), bool)
    for shard in shards:
        if len(shard.ids):
            low, high = np.searchsorted(ids, [shard.ids[0], shard.ids[-1] + 1])
            had[low:high] |= member(ids[low:high], shard.ids)
    return had


def label_versions(found: Tables) -> int:
    """Return the number of label versions; 0 if the store uses the tables of another store that cannot be found."""
    try:
        return found.version
    except UsageError:
        return 0
