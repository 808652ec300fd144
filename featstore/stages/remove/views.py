"""Remove pictures from the augmented views of a store if they were removed from the store itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from featstore.store import FeatureStore
from featstore.store.claims import Claims
from featstore.store.denylist import Denylist
from featstore.store.erasure import keys_in_files
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.removal import remove_rows, restore_rows
from featstore.store.view_stores import view_stores

_KEYS: Final = 65536
"""Number of keys to look up at once."""


def remove_from_views(store: Path) -> None:
    """Remove the pictures on the denylist of ``store`` from its augmented views. Raises FeatstoreError while a view is
    compacted, OSError if writing fails.
    """
    denylist = Denylist.of(FeatureStore(store)._plan)
    for path in view_stores(store).values():
        keys = denied_keys(path, denylist)
        if keys:
            with Claims(path) as claims:
                claims.join()
                remove_rows(path, keys)


def restore_in_views(store: Path, keys: Sequence[bytes]) -> None:
    """Remove ``keys`` from the denylists of the augmented views of ``store``; keys that are not on a list are ignored."""
    for path in view_stores(store).values():
        denied = Denylist.of(FeatureStore(path)._plan).matching(list(keys))[0]
        theirs = [key for key, known in zip(keys, denied.tolist(), strict=True) if known]
        if theirs:
            with Claims(path) as claims:
                claims.join()
                restore_rows(path, theirs)


def denied_keys(view: Path, denylist: Denylist) -> list[bytes]:
    """Return the keys in the files of the store ``view``, of live and earlier rows, that are on ``denylist``."""
    manifest = Manifest.read(view)
    found: dict[bytes, None] = {}
    for _, keys in keys_in_files(view, manifest, Plan(view, manifest.epoch)):
        every = iter(keys)
        while part := list(islice(every, _KEYS)):
            found.update((key, None) for key, denied in zip(part, denylist.denies_keys(part), strict=True) if denied)
    return list(found)
