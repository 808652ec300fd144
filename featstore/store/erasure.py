"""Erase removed pictures from the files of a store, and check that none of their keys are left.

A purge is a compaction that also erases the keys of all pictures on the denylist from tables and history. From the
start of a purge until its last old file is removed, the manifest says that a purge is unfinished. So a killed purge is
detected, and is continued by repeating all steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from featstore.errors import UsageError
from featstore.store import folders, history, shards
from featstore.store.claims import Claims
from featstore.store.compaction import Compaction, CompactReport
from featstore.store.denylist import Denylist
from featstore.store.feature_store import FeatureStore
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.shards import Shard
from featstore.store.tables import Tables

_KEYS: Final = 65536
"""Number of keys to look up at once."""


def require_purgeable(store: Path) -> None:
    """Raise UsageError if repair has moved damaged files aside: keys cannot be erased from these files."""
    try:
        with folders.opened(store, folders.DAMAGED) as handle:
            count = len(os.listdir(handle))
    except FileNotFoundError:
        return
    if count:
        raise UsageError(
            f"{store / folders.DAMAGED}: has {count:,} files that featstore repair set aside, and the pictures to purge "
            "may be in them: remove that folder, or move it elsewhere, and run the same command again"
        )


def erase(store: Path, claims: Claims, outside: Callable[[FeatureStore, Denylist], None]) -> CompactReport:
    """Erase all pictures of the denylist from the store, which ``claims`` holds exclusively.

    ``outside(store, denylist)`` erases the pictures from indexes and heads of the store; it is called before the
    store's own files are replaced. Raises UsageError if nothing was removed from the store.
    """
    require_purgeable(store)
    opened = FeatureStore(store)
    denylist = Denylist.of(opened._plan)
    if not len(denylist):
        raise UsageError(f"{store}: no picture was removed from it; name those to remove and purge")
    replace(Manifest.read(store), purging=True).write(store)
    outside(opened, denylist)
    report = Compaction(store, claims, purge=True).run()
    replace(Manifest.read(store), purging=False).write(store)
    return report


def traces(store: Path, manifest: Manifest, plan: Plan, denylist: Denylist | None = None) -> Iterator[tuple[Path, int]]:
    """Yield each file that has keys of purged pictures, and the number of these keys; nothing after a complete purge.

    ``denylist``: the denylist of another store; if given, look for keys of all pictures on this list instead. Raises
    DamagedError for a damaged file, OSError if a file cannot be read.
    """
    denylist = Denylist.of(plan).erased() if denylist is None else denylist
    if not len(denylist):
        return
    for path, keys in keys_in_files(store, manifest, plan):
        count = count_denied(denylist, keys)
        if count:
            yield path, count


def count_denied(denylist: Denylist, keys: Iterable[bytes]) -> int:
    """Return how many of ``keys`` are on the denylist, in constant memory."""
    count, part = 0, list[bytes]()
    for key in keys:
        part.append(key)
        if len(part) == _KEYS:
            count += int(denylist.denies_keys(part).sum())
            part = []
    return count + int(denylist.denies_keys(part).sum())


def keys_in_files(store: Path, manifest: Manifest, plan: Plan) -> Iterator[tuple[Path, Iterable[bytes]]]:
    """Yield each file of the store that contains keys, together with these keys."""
    for segment in plan.segments:
        yield segment.file.path, segment.keys
    for table in Tables(store, manifest.epoch, follow=False).own:
        yield table.file.path, table.keys
    for path in history.history_files(store):
        yield path, history.Former(path).keys
    for unit in plan.units():
        if shards.has_shard(store, unit.number):
            shard = Shard(shards.shard_path(store, unit.number), manifest.identity)
            yield shard.file.path, shard.keys
            yield shard.file.path, [key for key, _ in shard.failures()]
