"""Use a store as a source of pictures, to extract the same pictures with another backbone.

The new store copies the old store's keys and its history of labels, splits and metadata (``take_tables``), or always
reads labels, splits and metadata from the old store (``follow_tables``). The picture files are read from the places
that the old store recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.sources.base import ROWS, Chunk, ReadFailure
from featstore.sources.reading import encoded, resolve, stat_picture
from featstore.store import tables
from featstore.store.denylist import Denylist
from featstore.store.keys import digests
from featstore.store.label_history import UNDO
from featstore.store.manifest import NAME, Manifest, settled
from featstore.store.past import Missing
from featstore.store.plan import Plan, Segment
from featstore.store.requires import require
from featstore.store.rows import Rows
from featstore.store.tables import FOLLOW, Tables
from featstore.text import counted, quoted

if TYPE_CHECKING:
    from featstore.store.feature_store import FeatureStore

KIND = "store"
PARTIAL = "partial"
"""Key in the description of a source that is only some pictures of a store, such as those of a cache of finetune."""


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is the folder of a store."""
    return os.path.isfile(os.path.join(os.fspath(path), NAME))


class StoreSource:
    """The pictures of a store, as a Source (see featstore.sources.base).

    ``root``: the present folder of the pictures, if the store's only source was moved. Raises UsageError if there is no
    store, or if ``root`` is given and the store has several sources.
    """

    kind = KIND
    layout: str | None = None
    ignored = 0
    unfound = ""

    def __init__(self, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(os.path.abspath(path))
        self.location = os.fsdecode(self.path)
        self.store_id = Manifest.read(self.path).store_id
        self.plan = settled(self.path, lambda manifest: Plan(self.path, manifest.epoch))[1]
        self._roots = sorted({str(each.get("root", "/")) for each in self.plan.sources().values()})
        if root is not None and len(self._roots) > 1:
            raise UsageError(
                f"{path}: has pictures of {len(self._roots)} sources, and one root cannot replace them; extract each "
                "source with its own --root into that store first"
            )
        if root is not None and not os.path.isdir(root):
            raise UsageError(f"{root}: the root is no folder")
        self.root = Path(root or (self._roots[0] if len(self._roots) == 1 else "/"))
        self.notes: list[str] = []
        self.read_as = ""

    def describe(self) -> dict[str, Any]:
        """Return kind, location and root of the source store, and the store's id, as JSON."""
        return {"kind": KIND, "location": self.location, "root": os.fsdecode(self.root), "store_id": self.store_id}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield the pictures that are not retired, with and without a vector. Raises UsageError if there are none."""
        self.notes, total = [], 0
        missing, changed = _Examples(), _Examples()
        for segment in self.plan.segments:
            for start in range(0, len(segment.ids), rows):
                stop = min(start + rows, len(segment.ids))
                live = np.flatnonzero(~self.plan.is_retired(segment.ids[start:stop]))
                if len(live):
                    total += len(live)
                    yield self._chunk(segment, segment.rows(start, stop), live, missing, changed)
        if not total:
            raise UsageError(f"{self.path}: has no pictures; extract some into it first")
        self.read_as = f"{counted(total, 'picture')} of the store {self.location}"
        if missing.count:
            self.notes.append(
                f"{counted(missing.count, 'picture is', 'pictures are')} not where {self.path} read "
                f"{'it' if missing.count == 1 else 'them'}{missing}; --root says where pictures are now"
            )
        if changed.count:
            self.notes.append(
                f"{counted(changed.count, 'picture has', 'pictures have')} changed since {self.path} read "
                f"{'it' if changed.count == 1 else 'them'}{changed}: extract the pictures into both for equal rows"
            )

    def _chunk(
        self, segment: Segment, rows: Rows, live: NDArray[np.int64], missing: _Examples, changed: _Examples
    ) -> Chunk:
        keys = [rows.keys[at] for at in live.tolist()]
        locations = [rows.location(at) for at in live.tolist()]
        sizes, mtimes, offsets = (values.copy() for values in self.plan.stat(rows.ids[live]))
        if len(self._roots) > 1:
            locations = [_absolute(str(segment.source.get("root", "/")), location) for location in locations]
        root = encoded(self.root)
        its_own = self.root if len(self._roots) == 1 else Path(str(segment.source.get("root", "/")))
        # If the folder of all pictures is missing (an unmounted disk), keep the recorded size and time of each picture.
        mounted = os.path.isdir(its_own)
        for at in np.flatnonzero(offsets < 0).tolist():
            if not mounted:
                missing.add(keys[at])
                continue
            size, mtime = stat_picture(root, locations[at])
            if size < 0 and sizes[at] >= 0:
                missing.add(keys[at])
            elif sizes[at] >= 0 and (size, mtime) != (sizes[at], mtimes[at]):
                changed.add(keys[at])
            sizes[at], mtimes[at] = size, mtime
        none: list[str | None] = [None] * len(keys)
        regions = self.plan.regions(rows.ids[live]) if self.plan.has_regions else None
        placed = locations if locations != keys else None
        return Chunk(keys, sizes, mtimes, offsets, placed, none, list(none), {}, regions)


class _Examples:
    """Count pictures, and keep the first three keys as examples for a note to the user."""

    def __init__(self) -> None:
        self.count, self._keys = 0, []  # type: int, list[str]

    def add(self, key: bytes) -> None:
        self.count += 1
        if len(self._keys) < 3:
            self._keys.append(quoted(key))

    def __str__(self) -> str:
        return f" ({', '.join(self._keys)}{', ...' if self.count > len(self._keys) else ''})"


def _absolute(root: str, location: bytes) -> bytes:
    path, zero, column = location.partition(b"\0")
    try:
        return os.path.join(b"/", resolve(encoded(Path(root)), path)) + zero + column
    except ReadFailure:
        return location


def take_tables(store: Path, manifest: Manifest, source: StoreSource) -> int:
    """Copy the label versions of the source store that ``store`` lacks; return how many versions were copied.

    A version has labels, splits and metadata. Each copy keeps its date and origin, and records the number of the
    copied version; therefore the next run copies only newer versions. As in a compaction, values are left out for
    pictures that are retired in the source or were removed from ``store``.
    """
    theirs = settled(source.path, lambda other: Tables(source.path, other.epoch))[1]
    owner, taken = theirs.store_id or source.store_id, 0
    denylist = Denylist.of(Plan(store, manifest.epoch))
    while True:
        mine = Tables(store, manifest.epoch)
        if mine.follows is not None:
            return taken
        known = _copied(mine, owner)
        if len(known) >= theirs.version:
            return taken
        table = theirs.versions[len(known)]
        about: dict[str, Any] = {
            **table.about,
            "generation": Plan(store, manifest.epoch).generation,
            "of": {"store_id": owner, "version": len(known) + 1},
        }
        if table.reverts is not None:
            about["reverts"] = known[table.reverts - 1]
            require(store, UNDO)
        try:
            path, rows = tables.table_path(store, manifest.epoch, mine.version), source.plan.holds(table.index)
            if len(denylist):
                rows &= ~denylist.denies_keys(list(table.keys))
            tables.copy_rows(path, table, np.flatnonzero(rows), about)
            taken += 1
        except FileExistsError:
            # Another process copied this label version at the same time: read the tables again.
            continue


def behind(store: FeatureStore, source: FeatureStore) -> str:
    """Describe what changed in ``source`` since ``store`` was last updated from it; return "" if nothing changed.

    Pictures that were removed from ``store`` are ignored. Pictures are compared by the file sizes and modification
    times that the two stores have recorded; the picture files are not read.
    """
    denylist, theirs, mine = Denylist.of(store._plan), source._plan, store._plan
    new = changed = 0
    seen = [np.empty(0, np.int64)]
    for segment in theirs.segments:
        live = np.flatnonzero(~theirs.is_retired(segment.ids))
        ids = mine.find(segment.index.digest()[live])
        absent = live[ids < 0]
        new += len(absent) - int(denylist.denies_keys(list(segment.keys.take(absent))).sum())
        there = np.flatnonzero(ids >= 0)
        seen.append(ids[there])
        new_times, old_times = theirs.stat(segment.ids[live[there]])[1], mine.stat(ids[there])[1]
        changed += int(((new_times > old_times) & (old_times >= 0)).sum())
    gone = 0
    for segment in mine.segments:
        if segment.source.get("kind") == KIND and segment.source.get("store_id") == source.store_id:
            ours = segment.ids[~mine.is_retired(segment.ids)]
            gone += len(np.setdiff1d(ours, np.concatenate(seen)))
    labels = 0
    if store._tables.follows is None:
        labels = source._tables.version - len(_copied(store._tables, source._tables.store_id or source.store_id))
    counts = (
        (new, "new picture"),
        (gone, "removed picture"),
        (changed, "changed picture"),
        (labels, "newer label version"),
    )
    return ", ".join(counted(count, what) for count, what in counts if count > 0)


def _copied(mine: Tables, owner: str) -> list[int]:
    """Find the label versions in ``mine`` that were copied from the store with the id ``owner``.

    Returns a list: item i is the number in ``mine`` of the copy of that store's version i + 1.
    """
    found: dict[int, int] = {}
    for version, table in enumerate(mine.versions, 1):
        of = table.meta.get("of")
        if isinstance(of, dict) and of.get("store_id") == owner and isinstance(of.get("version"), int):
            found[of["version"]] = version
    numbers: list[int] = []
    while len(numbers) + 1 in found:
        numbers.append(found[len(numbers) + 1])
    return numbers


def follow_tables(store: Path, manifest: Manifest, source: StoreSource) -> None:
    """Make ``store`` use the labels, splits and metadata of the source store instead of its own.

    A reference to the source store is then the only table in ``store``. Raises UsageError if ``store`` has tables of
    its own, or already uses those of another store.
    """
    theirs = settled(source.path, lambda other: Tables(source.path, other.epoch))[1]
    if theirs.follows is not None:
        raise UsageError(
            f"{source.path}: follows {theirs.follows['store']} itself; name that store, or leave out --follow"
        )
    own = Tables(store, manifest.epoch)
    if own.own and (own.follows is None or own.follows.get("store_id") != source.store_id):
        what = "labels of its own" if own.follows is None else f"the labels of {own.follows['store']}"
        raise UsageError(f"{store}: has {what}, and cannot follow {source.path}; extract into a new store")
    reference = {
        "store": source.location,
        "relative": os.path.relpath(source.path, os.path.abspath(store)),
        "store_id": source.store_id,
    }
    if own.follows == reference:
        return
    require(store, FOLLOW)
    path = tables.table_path(store, manifest.epoch, 0)
    try:
        tables.write_table(path, [], {}, "source", about={"follows": reference}, exclusive=not own.own)
    except FileExistsError:
        # Another process wrote this table at the same time: check which store the table refers to.
        follow_tables(store, manifest, source)


def purged_labels(store: FeatureStore) -> Missing:
    """Return the pictures of ``store`` whose labels are lost because the followed store purged these pictures.

    The followed store is the one whose tables ``store`` uses.
    """
    place = store._tables.followed
    if place is None:
        return Missing()
    theirs = settled(place, lambda manifest: Plan(place, manifest.epoch))[1]
    keys = list(store._key_bytes(None))
    known, digest = np.zeros(len(keys), bool), digests(keys)
    for segment in theirs.segments:
        known |= segment.index.find(digest) >= 0
    return Missing.of([keys[at] for at in np.flatnonzero(~known).tolist()])


def require_own_tables(store: Path, found: Tables) -> None:
    """Raise UsageError if the store uses the tables of another store: labels have to be changed in that store."""
    if found.follows is not None:
        raise UsageError(f"{store}: has the labels of {found.follows['store']}: label that store instead")
