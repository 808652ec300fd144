"""Past states of a store: its rows, labels and splits as they were earlier.

A past state is chosen by a generation, a label version or a date, or by the file of a head or an index that used it.

Plan segments and tables never change after they were written, so a past state consists of the first segments of the
plan and the first versions of the tables. After a compaction, history.py says which of the rows existed at that time.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError, UsageError
from featstore.files import sealed
from featstore.store.history import Former, State, former_epochs, states_of, time_of
from featstore.store.ids import Ids, ascending
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.tables import Table, Tables
from featstore.text import counted, quoted

if TYPE_CHECKING:
    from featstore.store.feature_store import FeatureStore

KEY = "past"
"""Key in a head's ``meta`` and in an index's origin; its value is a list of past-state records, one per store."""
_EXAMPLES = 5
_KINDS = {"head": "about", "index": "identity"}
"""Name of the JSON value that contains the past-state record, for each kind of file (head, index)."""

At = int | Sequence[int] | str | os.PathLike[str] | datetime.date | Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """A past state of a store.

    ``epoch``: number of compactions. ``segments``: number of plan segments in this epoch. ``next_id``: greater than all
    ids of the state. ``version``: number of label versions. ``pending``: ranges (first, last) of ids without a vector.
    """

    epoch: int
    segments: int
    next_id: int
    version: int
    pending: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Missing:
    """Pictures that had a vector in a past state and were purged later.

    ``count``: number of pictures; ``keys``: keys of the first few pictures; ``erased``: number of pictures whose key
    was erased too.
    """

    count: int = 0
    keys: tuple[str, ...] = ()
    erased: int = 0

    def check(self, store: Path, missing: str) -> None:
        """Raise UsageError if pictures are missing and ``missing`` is not "skip"."""
        if self.count and missing != "skip":
            raise UsageError(
                f"{store}: {self}: featstore compact purged them after they were removed or changed; "
                'missing="skip" opens the others'
            )

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> Missing:
        """Make a Missing object for purged pictures with these ``keys``."""
        return cls(len(keys), tuple(map(quoted, keys[:_EXAMPLES])))

    def __str__(self) -> str:
        named = f" (the first: {', '.join(self.keys)})" if self.keys else ""
        erased = f", {self.erased:,} of them without a trace of their keys" if self.erased else ""
        return f"{counted(self.count, 'picture')} of then {'is' if self.count == 1 else 'are'} gone{named}{erased}"


class PastPlan(Plan):
    """The plan as it was in the past state ``moment``, restricted to the rows that still exist."""

    def __init__(self, plan: Plan, moment: Moment) -> None:
        self.__dict__.update(plan.__dict__)
        self._moment = moment
        if moment.epoch == plan.epoch:
            self.segments = plan.segments[: moment.segments]
        else:
            # Only segments that the compaction wrote contain ids of the past state: later segments have only larger
            # ids.
            self.segments = [each for each in plan.segments if len(each.ids) and int(each.ids[0]) < moment.next_id]
        self._arrange()
        hidden = [self.retired]
        for segment in self._filled:
            hidden.append(segment.ids[np.searchsorted(segment.ids, moment.next_id) :])
            for first, last in moment.pending:
                low, high = np.searchsorted(segment.ids, [first, last + 1])
                hidden.append(segment.ids[low:high])
        self.retired = ascending(hidden)

    @property
    def generation(self) -> tuple[int, int]:
        """Generation (epoch, number of segments) of the plan in the past state."""
        return self._moment.epoch, self._moment.segments


def record_of(store: FeatureStore) -> dict[str, Any]:
    """Return a record (JSON) of the store's current rows, labels and splits, with which ``open_past`` restores them."""
    pending = [(unit.first_id, unit.last_id) for unit in store._pending_units()]
    joined: list[list[int]] = []
    for first, last in sorted(pending):
        if joined and first == joined[-1][1] + 1:
            joined[-1][1] = last
        else:
            joined.append([first, last])
    epoch, segments = store._plan.generation
    return {
        "store_id": store.store_id,
        "generation": [epoch, segments],
        "next_id": store._plan.next_id,
        "label_version": store._tables.version,
        "pending": joined,
    }


def records_in(past: Any) -> list[dict[str, Any]]:
    """Return the past-state records (see record_of) in ``past``, the JSON that a head or an index has under the key
    "past".

    Entries that are no dicts are ignored, because the file may be damaged.
    """
    return [each for each in past if isinstance(each, dict)] if isinstance(past, list) else []


def open_past(store: Path, manifest: Manifest, plan: Plan, tables: Tables, at: At) -> tuple[PastPlan, Tables, Missing]:
    """Return the plan and the tables in the state ``at`` (see FeatureStore.open), and the pictures purged since then.

    Raises UsageError if there was no such state or its history is lost, DamagedError if a file is damaged.
    """
    timeline = _Timeline(store, plan, tables)
    moment = timeline.find(at, manifest.store_id)
    past = PastPlan(plan, moment)
    past.next_id = moment.next_id
    return past, tables.until(moment.version), timeline.missing(moment)


class _Timeline:
    """All known states of a store, the oldest first."""

    def __init__(self, store: Path, plan: Plan, tables: Tables) -> None:
        self.store, self.plan, self.tables = store, plan, tables
        self.former: list[Former] = former_epochs(store, plan.epoch)
        self.states = [state for former in self.former for state in former.states] + states_of(plan)

    def find(self, at: At, store_id: str) -> Moment:
        """Return the state that ``at`` selects (see FeatureStore.open). Raises UsageError if there is no such state,
        DamagedError if a file is damaged.
        """
        if isinstance(at, Mapping):
            return self._recorded(at, store_id, "this record")
        if isinstance(at, int | np.integer):
            return self._of_version(int(at))
        if isinstance(at, datetime.date):
            return self._of_date(at, str(at))
        if isinstance(at, str):
            with contextlib.suppress(ValueError):
                text = at.strip()
                date: datetime.date = datetime.datetime.fromisoformat(text)
                return self._of_date(datetime.date.fromisoformat(text) if len(text) <= 10 else date, text)
        if isinstance(at, str | os.PathLike):
            return self._recorded(_record_in(Path(at)), store_id, str(at))
        numbers = [int(each) for each in at]
        if len(numbers) not in (2, 3):
            raise UsageError(f"{self.store}: a generation has two or three numbers, as store.generation, not {at!r}")
        return self._of_generation(numbers[0], numbers[1])

    def _moment(self, state: State, version: int, pending: tuple[tuple[int, int], ...] = ()) -> Moment:
        return Moment(state.epoch, state.segments, state.next_id, version, pending)

    def _of_generation(self, epoch: int, segments: int) -> Moment:
        for at, state in enumerate(self.states):
            if (state.epoch, state.segments) == (epoch, segments):
                return self._moment(state, self._versions_at_end(at))
        known = f"{self._shown(self.states[0])} to {self._shown(self.states[-1])}" if self.states else "none"
        raise UsageError(
            f"{self.store}: no generation ({epoch}, {segments}) is known; known are {known}" + self._compacted()
        )

    def _versions_at_end(self, at: int) -> int:
        """Return the number of label versions that existed when the state after ``states[at]`` began; for the last
        state, the present number.
        """
        if at == len(self.states) - 1:
            return self.tables.version
        state, following = self.states[at], self.states[at + 1]
        if following.epoch > state.epoch:
            return next(former.versions for former in self.former if former.epoch == state.epoch)
        return following.versions if following.versions >= 0 else self._versions_until(following.created)

    def _of_version(self, version: int) -> Moment:
        if not 0 <= version <= self.tables.version:
            raise UsageError(
                f"{self.store}: no label version {version}; there are 0 to {self.tables.version} "
                f"(featstore label {self.store} --history lists them)"
            )
        if not self.states:
            raise UsageError(f"{self.store}: has no pictures yet, and so no past")
        if version == self.tables.version:
            return self._moment(self.states[-1], version)
        following = self.tables.versions[version]
        generation = following.about.get("generation")
        if self.tables.follows is None and isinstance(generation, list) and len(generation) == 2:
            # A store made from another store copies the label history of that store. A label version may therefore be
            # older than all pictures of this store: use the rows of this store's first state.
            first = self.states[0] if generation[1] == 0 else None
            state = next((s for s in self.states if [s.epoch, s.segments] == generation), first)
        else:
            state = self._last(_created(following))
            if state is None and self.tables.follows is not None:
                # This store uses the labels of another store, and this label version is older than all pictures of this
                # store: use the rows of this store's first state.
                state = self.states[0]
        if state is None:
            raise UsageError(f"{self.store}: the rows at label version {version} are not known" + self._compacted())
        return self._moment(state, version)

    def _of_date(self, at: datetime.date, text: str) -> Moment:
        if not isinstance(at, datetime.datetime):
            # A date without a time means the end of that day.
            at = datetime.datetime.combine(at, datetime.time.max)
        moment = at.astimezone()
        state = self._last(moment)
        if state is None:
            began = (
                f"its first known state is of {self.states[0].created.isoformat()}" if self.states else "it is empty"
            )
            raise UsageError(f"{self.store}: nothing is known of {text}; {began}" + self._compacted())
        return self._moment(state, self._versions_until(moment))

    def _last(self, moment: datetime.datetime) -> State | None:
        return next((state for state in reversed(self.states) if state.created <= moment), None)

    def _versions_until(self, moment: datetime.datetime) -> int:
        made = [version for version, table in enumerate(self.tables.versions, 1) if _created(table) <= moment]
        return made[-1] if made else 0

    def _recorded(self, record: Mapping[str, Any], store_id: str, what: str) -> Moment:
        """Return the past state that the ``record`` of a head or an index names; old heads recorded only its
        generation."""
        mine = next((each for each in _records(record) if each.get("store_id") == store_id), None)
        if mine is None:
            raise UsageError(f"{what}: was not made from {self.store}, and so does not know a state of it")
        try:
            epoch, segments = (int(number) for number in mine["generation"][:2])
            version = int(mine["label_version"]) if "label_version" in mine else None
            pending = tuple((int(first), int(last)) for first, last in mine.get("pending", []))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DamagedError(f"{what}: what it says of its store's state is damaged") from None
        found = self._of_generation(epoch, segments)
        if version is not None and not 0 <= version <= self.tables.version:
            raise UsageError(
                f"{what}: was made at label version {version} of {self.store}, which has {self.tables.version} now: "
                "labels are lost; restore the store's tables from a copy"
            )
        return Moment(epoch, segments, found.next_id, found.version if version is None else version, pending)

    def _compacted(self) -> str:
        begin = self.former[0].epoch if self.former else self.plan.epoch
        return "; the history before that is lost, or an older featstore compacted and kept none" if begin else ""

    def _shown(self, state: State) -> str:
        return f"({state.epoch}, {state.segments})"

    def missing(self, moment: Moment) -> Missing:
        """Return the pictures of the past state ``moment`` that were purged later."""
        count = erased = 0
        examples: list[str] = []
        for former in self.former:
            if former.epoch < moment.epoch:
                continue
            places = former.gone_since(moment.segments if former.epoch == moment.epoch else 0, moment.next_id)
            places = places[~_within(former.retired[places], moment.pending)]
            count += len(places)
            for key in former.keys.take(places):
                erased += key == b""
                if key and len(examples) < _EXAMPLES:
                    examples.append(quoted(key))
        return Missing(count, tuple(examples), erased)


def _within(ids: Ids, ranges: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    inside = np.zeros(len(ids), bool)
    for first, last in ranges:
        inside |= (ids >= first) & (ids <= last)
    return inside


def _created(table: Table) -> datetime.datetime:
    try:
        return time_of(table.meta["created"])
    except (KeyError, TypeError, ValueError):
        raise DamagedError(f"{table.file.path}: the table does not say when it was written") from None


def _record_in(path: Path) -> dict[str, Any]:
    """Return the past-state record in the file of a head or an index. Raises UsageError for any other file."""
    side = path.with_name(path.name + ".featstore")
    for file in (side, path):
        if file.is_file() and sealed.begins_like_one(file):
            kind = sealed.read_header(file).get("kind")
            found = sealed.SealedFile(file, None).meta.get(_KINDS.get(str(kind), ""))
            if isinstance(found, dict):
                return found
    raise UsageError(f"{path}: is no head and no index, nor a date such as 2026-11-26 or 2026-11-26T12:00")


def _records(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the past-state records in the JSON of a head or an index; convert records of older featstore versions."""
    if "store_id" in meta:
        return [meta]
    origin = meta.get("origin")
    found = meta.get(KEY) or (origin.get(KEY) if isinstance(origin, dict) else None)
    if isinstance(found, list):
        return list(records_in(found))
    number = meta.get("generation")
    if isinstance(origin, dict) and isinstance(number, int) and "store_id" in origin:
        generation = [number >> 48, number >> 24 & 0xFFFFFF]
        return [
            {"store_id": origin["store_id"], "generation": generation, "label_version": meta.get("label_version", 0)}
        ]
    return []
