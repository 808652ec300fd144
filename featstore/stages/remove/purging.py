"""Erase removed pictures from a store, and from the indexes and heads that keep their rows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.artifacts.lineage import find_artifacts, require_artifact
from featstore.errors import FeatstoreError
from featstore.stages.remove.outside import held_by, rewrite
from featstore.stages.remove.stage import encoded, rows_of
from featstore.stages.remove.views import denied_keys
from featstore.store import FeatureStore
from featstore.store.claims import Claims
from featstore.store.compaction import CompactReport
from featstore.store.denylist import Denylist
from featstore.store.erasure import erase, require_purgeable, traces
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.removal import Removal, remove_rows
from featstore.store.view_stores import view_stores


@dataclass(frozen=True)
class PurgeReport:
    """Result of a purge.

    ``removal``: result of removing the pictures named in this call. ``purged``: number of rows erased from the store,
    including rows that were removed or replaced earlier. ``rewritten``: indexes and heads that were written again
    without the pictures. ``left``: (path, reason) of files that may still contain removed pictures. ``copies``: other
    stores that also contain removed pictures: stores that this store was made from, and stores made from it. ``views``:
    augmented views of the store from which removed pictures were erased too.
    """

    store: str
    removal: Removal
    purged: int
    denied: int
    compaction: dict[str, Any]
    rewritten: list[str] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    copies: list[str] = field(default_factory=list)
    views: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the purge as JSON types."""
        return {**self.__dict__, "removal": self.removal.to_dict()}


def purge(
    store: str | os.PathLike[str],
    keys: Iterable[str | bytes] = (),
    *,
    where: str | None = None,
    also: Iterable[str | os.PathLike[str]] = (),
) -> PurgeReport:
    """Remove pictures as ``remove`` does, and erase all removed pictures, also earlier ones, from the store's files.

    Indexes and heads that contain removed pictures are written again without them: the files of ``also``, and this
    store's indexes and heads in the same folder. The augmented views of the store are purged too. Pages, and other
    stores with the same pictures, are only reported. No other process may write to the store meanwhile; a store that is
    already open keeps reading the old files. If a purge was killed, the same call continues it.

    Raises UsageError as ``remove`` does, and if there is nothing to purge; FeatstoreError that names the other process
    while another process writes to the store.
    """
    path = Path(store)
    store_id = Manifest.read(path).store_id
    require_purgeable(path)
    named = [require_artifact(Path(each)) for each in also]
    around = find_artifacts(Path(os.path.abspath(path)).parent, deep=False).artifacts
    ours = [each for each in around if any(parent.store_id == store_id for parent in each.parents)]
    every = {each.path.absolute(): each for each in [*ours, *named]}
    rewritten: list[str] = []
    left: list[tuple[str, str]] = []

    def outside(opened: FeatureStore, denylist: Denylist) -> None:
        for artifact in every.values():
            try:
                if artifact.kind != "store" and rewrite(artifact, opened, denylist):
                    rewritten.append(str(artifact.path))
            except (FeatstoreError, OSError) as error:
                left.append((str(artifact.path), str(error)))

    with Claims(path) as claims:
        claims.exclusive()
        removal = remove_rows(path, encoded(keys), rows_of(where))
        report: CompactReport = erase(path, claims, outside)
    left += [(str(each.path), held) for each in every.values() if (held := held_by(each))]
    others = [str(each.path) for each in every.values() if each.kind == "store"]
    others += [parent.path for parent in _parents(path)]
    denylist = Denylist.of(FeatureStore(path)._plan)
    views = _purge_views(path, denylist, rewritten, left)
    copies = [other for other in dict.fromkeys(others) if _has_some(Path(other), denylist)]
    return PurgeReport(
        str(path), removal, report.purged, len(denylist), report.to_dict(), rewritten, left, copies, views
    )


def _purge_views(store: Path, denylist: Denylist, rewritten: list[str], left: list[tuple[str, str]]) -> list[str]:
    """Purge the pictures on ``denylist`` from the augmented views of ``store``; return the paths of these views.

    Files that are written again are added to ``rewritten``; files that may still contain removed pictures to ``left``.
    """
    purged = []
    for path in view_stores(store).values():
        try:
            keys = denied_keys(path, denylist)
            if keys or Manifest.read(path).purging:
                report = purge(path, keys)
                rewritten += report.rewritten
                left += report.left
                purged.append(str(path))
        except (FeatstoreError, OSError) as error:
            left.append((str(path), str(error)))
    return purged


def _has_some(other: Path, denylist: Denylist) -> bool:
    """Return whether files of another store contain keys of pictures on ``denylist``; True if the store is unreadable."""
    try:
        manifest = Manifest.read(other)
        return any(traces(other, manifest, Plan(other, manifest.epoch), denylist))
    except (FeatstoreError, OSError):
        return True


def _parents(store: Path) -> list[Any]:
    """Return the stores from which this store was made, and which contain its pictures too."""
    return list(require_artifact(store).parents)
