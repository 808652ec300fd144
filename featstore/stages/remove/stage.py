"""Remove pictures from a store, and restore removed pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.sources.base import without_dot
from featstore.sources.listing import entries
from featstore.stages.remove.views import remove_from_views, restore_in_views
from featstore.store import FeatureStore
from featstore.store.claims import Claims
from featstore.store.manifest import Manifest
from featstore.store.removal import Removal, Select, remove_rows, restore_rows
from featstore.text import to_bytes


def remove(
    store: str | os.PathLike[str],
    keys: Iterable[str | bytes] = (),
    *,
    where: str | None = None,
    dry_run: bool = False,
) -> Removal:
    """Remove the pictures of ``keys``, and all pictures with a vector whose row meets ``where`` (see featstore.where).

    A store that is opened later does not contain the pictures: no features, labels, splits or failures. A store that is
    already open does not change. The store's denylist keeps digests of the keys and of the pictures' bytes, so that
    ``extract`` does not add the pictures again (see ``restore``). The pictures are removed from the augmented views of
    the store too. ``dry_run``: only report what would be removed.

    Raises UsageError, before any change, for a key that is not in the store and was not removed earlier; FeatstoreError
    while the store is compacted.
    """
    path = Path(store)
    Manifest.read(path)
    with Claims(path) as claims:
        claims.join()
        report = remove_rows(path, encoded(keys), rows_of(where), dry_run=dry_run)
    if not dry_run:
        remove_from_views(path)
    return report


def restore(store: str | os.PathLike[str], keys: Iterable[str | bytes]) -> int:
    """Take removed pictures off the denylist, also in augmented views of the store, so that the next ``extract`` adds them again.

    Returns the number of these pictures. Raises UsageError for a key that was not removed.
    """
    path = Path(store)
    Manifest.read(path)
    wanted = encoded(keys)
    with Claims(path) as claims:
        claims.join()
        count = restore_rows(path, wanted)
    restore_in_views(path, wanted)
    return count


def keys_in(path: str | os.PathLike[str]) -> list[bytes]:
    """Return the keys in a file: one per line, or separated by NUL (``find -print0``).

    Raises UsageError if there is no such file, or no key in it.
    """
    try:
        with open(path, "rb") as file:
            found = [without_dot(entry) for _, entry in entries(file)]
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{os.fspath(path)}: there is no such file of keys") from None
    if not found:
        raise UsageError(f"{os.fspath(path)}: names no key")
    return found


def encoded(keys: Iterable[str | bytes]) -> list[bytes]:
    return [key if isinstance(key, bytes) else to_bytes(key) for key in keys]


def rows_of(where: str | None) -> Select | None:
    """Return a function that selects the rows of a store that meet ``where``; None if ``where`` is None."""
    return None if where is None else partial(_rows, where=where)


def _rows(store: FeatureStore, where: str) -> NDArray[np.int64]:
    from featstore.where import rows_where

    return np.flatnonzero(rows_where(store, where))
