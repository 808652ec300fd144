"""Remove pictures from a store: one new file of the plan retires their rows and puts the pictures on the denylist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store import plan as plans
from featstore.store.cuts import regions_of
from featstore.store.denylist import FEATURE, Denylist
from featstore.store.feature_store import FeatureStore
from featstore.store.history import Former, history_files, label_versions
from featstore.store.ids import Ids
from featstore.store.key_matches import meant, other_forms
from featstore.store.keys import digests
from featstore.store.plan import NewSegment, Plan
from featstore.store.requires import require
from featstore.store.rows import Rows, parents
from featstore.store.tables import Tables
from featstore.text import counted, quoted

_ATTEMPTS: Final = 100
_NAMED: Final = 5
Select = Callable[[FeatureStore], NDArray[np.int64]]
"""Function that takes an open store and returns the rows to remove."""


@dataclass(frozen=True)
class Removal:
    """Result of a removal.

    ``removed``: number of pictures removed; ``vectors``: number of these that had a vector; ``keys``: keys of the first
    few, quoted. ``before``: number of requested pictures that were removed earlier. ``gone``: number of requested rows
    that were already retired, but whose keys were still in the store's files. ``copies``: number of other pictures that
    have the same bytes as a removed picture and stay in the store; ``copied``: keys of the first few. ``denied``: new
    length of the denylist. ``dry_run``: true if nothing was changed.
    """

    store: str
    removed: int
    vectors: int
    before: int
    gone: int
    copies: int
    denied: int
    keys: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    dry_run: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the removal as JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Chosen:
    """The pictures to remove.

    ``ids``: ids of the rows, ascending. ``before``: number of requested pictures that are already on the denylist.
    ``gone``: keys of retired rows (changed or vanished pictures), each mapped to the key of its picture.
    """

    ids: Ids
    before: int
    gone: dict[bytes, bytes]


def chosen(store: FeatureStore, keys: Sequence[bytes], rows: NDArray[np.int64]) -> Chosen:
    """Return the pictures to remove: those with the keys ``keys``, and those of the rows ``rows`` (m,).

    The key of a picture also selects all its regions. Keys are matched as in KeyMatches. Raises UsageError for a key
    that is neither in the store nor on its denylist.
    """
    plan, wanted = store._plan, list(dict.fromkeys(keys))
    ids = plan.find_keys(wanted)
    if (ids < 0).any():
        wanted = other_forms(plan, wanted)
        ids = plan.find_keys(wanted)
    regions = regions_of(plan, set(wanted))
    cut = np.array([number for every in regions.values() for number in every], np.int64)
    denied = Denylist.of(plan).matching(wanted)[0]
    gone = _gone(store, set(wanted))
    known = {*regions, *gone, *gone.values()}
    absent = [at for at in np.flatnonzero(ids < 0).tolist() if wanted[at] not in known]
    unknown = [wanted[at] for at in absent if not denied[at]]
    if unknown:
        what = f"the key {quoted(unknown[0])} is not in the store"
        if len(wanted) > 1:
            verb = "is" if len(unknown) == 1 else "are"
            what = f"{len(unknown):,} of {len(wanted):,} keys {verb} not in the store (the first: {quoted(unknown[0])})"
        raise UsageError(f"{store.path}: {what}; nothing was removed{meant(plan, unknown[0], store.keys)}")
    return Chosen(np.unique(np.concatenate([ids[ids >= 0], cut, store.ids[rows]])), len(absent), gone)


def _gone(store: FeatureStore, pictures: set[bytes]) -> dict[bytes, bytes]:
    """Return the keys of ``pictures`` and of their regions that have retired rows but no live row.

    The result maps each key to the key of its picture; keys on the denylist are left out. Retired rows are in the plan
    until the next compaction, and then in the history.
    """
    plan, found = store._plan, dict[bytes, bytes]()
    wanted = list(pictures)
    digest = digests(wanted)
    for segment in plan.segments if wanted else ():
        found.update((wanted[at], wanted[at]) for at in np.flatnonzero(segment.index.find(digest) >= 0).tolist())
        if segment.regions is not None:
            rows = np.flatnonzero((segment.regions[:, 4] > 0) & plan.is_retired(segment.ids))
            keys = list(segment.keys.take(rows))
            pairs = zip(keys, parents(keys, segment.regions[rows]), strict=True)
            found.update((key, parent) for key, parent in pairs if parent in pictures)
    for path in history_files(store.path) if wanted else ():
        for key in Former(path).keys:
            # The history does not record which part of a region's key is the picture's key: take the part before "#".
            parent = key.partition(b"#")[0] if plan.has_regions and key not in pictures else key
            if parent in pictures:
                found[key] = parent
    there = plan.find_keys(list(found))
    keys = [key for key, number in zip(found, there.tolist(), strict=True) if number < 0]
    denied = Denylist.of(plan).denies_keys(keys)
    return {key: found[key] for key, known in zip(keys, denied.tolist(), strict=True) if not known}


def _content(store: FeatureStore, ids: Ids) -> NDArray[np.uint8]:
    """Return the SHA-256 of each id's picture, (m, 32); zeros for a region if other regions of its picture stay."""
    content, plan = store._content(ids), store._plan
    if plan.has_regions:
        names = parents(plan.key_of(ids), plan.regions(ids))
        there = regions_of(plan, set(names))
        partly = {name for name, every in there.items() if not np.isin(every, ids).all()}
        content = content.copy()
        content[[name in partly for name in names]] = 0
    return content


def remove_rows(store: Path, keys: Sequence[bytes], select: Select | None = None, *, dry_run: bool = False) -> Removal:
    """Remove the pictures of ``keys`` and of the rows that ``select`` chooses. Call Claims.join first.

    FeatureStore objects that are already open do not change. Raises the errors of ``chosen``, and UsageError if other
    processes keep changing the plan.
    """
    for _ in range(_ATTEMPTS):
        opened = FeatureStore(store)
        plan, denylist = opened._plan, Denylist.of(opened._plan)
        rows = np.empty(0, np.int64) if select is None else select(opened)
        what = chosen(opened, keys, rows)
        report = _report(opened, what, len(denylist), dry_run)
        if dry_run or not (len(what.ids) or what.gone):
            return report
        keys_of, sums = plan.key_of(what.ids), _content(opened, what.ids)
        pictures = parents(keys_of, plan.regions(what.ids))
        sums = np.concatenate([sums, np.zeros((len(what.gone), 32), np.uint8)])
        new = denylist.entries([*keys_of, *what.gone], sums, [*pictures, *what.gone.values()])
        why = np.full(len(what.ids), plans.DENIED, np.uint8)
        try:
            _append(store, plan, opened._tables, what.ids, why, new.about(), new.arrays())
            return report
        except FileExistsError:
            # Another process appended a segment first: start over with the new plan.
            continue
    raise _too_busy(store)


def restore_rows(store: Path, keys: Sequence[bytes]) -> int:
    """Remove ``keys`` and the digests of their pictures' bytes from the denylist; return the number of keys.

    The next run of featstore extract adds the pictures again. Raises UsageError for a key that is not on the list.
    """
    wanted = list(dict.fromkeys(keys))
    for _ in range(_ATTEMPTS):
        opened = FeatureStore(store)
        denied, key, content = Denylist.of(opened._plan).matching(wanted)
        if not denied.all():
            first = wanted[int(np.flatnonzero(~denied)[0])]
            raise UsageError(
                f"{store}: {counted(int((~denied).sum()), 'key was', 'keys were')} not removed from it (the first: "
                f"{quoted(first)}); nothing was restored"
            )
        none = np.empty(0, np.int64)
        arrays = {"allowed/key": key, "allowed/content": content}
        try:
            _append(store, opened._plan, opened._tables, none, np.empty(0, np.uint8), {}, arrays)
            return len(key)
        except FileExistsError:
            continue
    raise _too_busy(store)


def _append(
    store: Path,
    plan: Plan,
    tables: Tables,
    retired: Ids,
    why: NDArray[np.uint8],
    about: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
) -> None:
    """Append to the plan a segment that has no rows. Raises FileExistsError if the segment's number is taken already."""
    require(store, FEATURE)
    none = np.empty(0, np.int64)
    new = NewSegment(
        Rows(none, [], np.empty(0, np.uint32), none, none, none, None),
        np.empty(0, np.uint64),
        np.zeros(1, np.uint64),
        retired,
        why,
        (none, none, none),
        {},
        plan.next_id,
        plan.next_unit,
        {"versions": label_versions(tables), **about},
        arrays,
    )
    plans.write_segment(plans.segment_path(store, plan.epoch, len(plan.segments)), new, digests([]))


def _report(store: FeatureStore, what: Chosen, denied: int, dry_run: bool) -> Removal:
    plan, ids = store._plan, what.ids
    copies = _copies(store, ids)
    return Removal(
        str(store.path),
        len(ids),
        int((store.rows_of_ids(ids) >= 0).sum()),
        what.before,
        len(what.gone),
        len(copies),
        denied + len(ids) + len(what.gone),
        [quoted(key) for key in plan.key_of(ids[:_NAMED])],
        [quoted(key) for key in plan.key_of(copies[:_NAMED])],
        dry_run,
    )


def _copies(store: FeatureStore, ids: Ids) -> Ids:
    """Return the ids of the other rows whose pictures have the same bytes as one of ``ids``."""
    sums = _content(store, ids)
    known = np.unique(sums[sums.any(axis=1)].view("V32"))
    found = [np.empty(0, np.int64)]
    for shard, _, offsets in store._live.parts(None) if len(known) else ():
        every = shard.ids[offsets]
        same = np.isin(np.ascontiguousarray(shard.sha256[offsets]).view("V32").reshape(-1), known)
        found.append(every[same])
    return np.setdiff1d(np.concatenate(found), ids)


def _too_busy(store: Path) -> UsageError:
    return UsageError(f"{store}: other processes keep changing the plan; run again when they are done")
