"""The augmented views of a store: separate stores in a folder beside the store, with the same rows.

View 0 is the store itself, with features of the plain pictures. View k is the store ``STORE.views/k``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import FeatstoreError, UsageError
from featstore.store.feature_store import FeatureStore
from featstore.store.manifest import Manifest
from featstore.store.stacked import rows_of_same

SUFFIX: Final = ".views"
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)


def view_path(store: str | os.PathLike[str], view: int) -> Path:
    """Return the path of view number ``view`` (1, 2, ...) of ``store``; the view need not exist."""
    path = Path(store)
    named = path if path.name not in ("", "..") else Path(os.path.abspath(path))
    return named.with_name(named.name + SUFFIX) / str(view)


def view_stores(store: str | os.PathLike[str]) -> dict[int, Path]:
    """Return the paths of the views of ``store`` by number, ascending.

    A folder counts as a view if it is a store whose identity has this number as its view. Other files are ignored, and
    so are symbolic links, because whoever made the store may have put them there.
    """
    folder = view_path(store, 1).parent
    try:
        entries = [] if folder.is_symlink() else list(os.scandir(folder))
    except OSError:
        return {}
    found = {}
    for view in sorted(int(entry.name) for entry in entries if _NUMBER.fullmatch(entry.name) and _is_folder(entry)):
        try:
            its = Manifest.read(folder / str(view)).identity.augment
        except (FeatstoreError, OSError):
            continue
        if its.get("view") == view:
            found[view] = folder / str(view)
    return found


def require_no_links(store: str | os.PathLike[str], views: Iterable[int]) -> None:
    """Raise UsageError if the folder of the views of ``store``, or one of ``views`` in it, is a symbolic link."""
    for view in views:
        path = view_path(store, view)
        for each in (path.parent, path):
            if each.is_symlink():
                raise UsageError(
                    f"{each}: is a symbolic link, and views are only written into a real folder; remove it"
                )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


class ViewRows:
    """The same rows of a store in several views: all rows of view 0, then all rows of the next view, and so on.

    Has the interface of featstore.blocks.RowBlocks, and reads the vectors in constant memory.

    If a view has no vector for a row, the row is left out of this view.

    Parameters
    ----------
    stores : sequence of FeatureStore
        The store of the plain pictures (view 0), followed by its augmented views.
    rows : ndarray of shape (m,)
        Rows of view 0.

    Attributes
    ----------
    shape : (n, d), with n up to m times the number of views.
    order : ndarray of shape (n,)
        For each row of the result, its index in ``rows``: the labels of the result are ``labels[order]``, its groups
        ``groups[order]``.
    absent : int
        Number of rows that were left out of a view.
    """

    def __init__(self, stores: Sequence[FeatureStore], rows: NDArray[np.int64]) -> None:
        first, self._parts, order = stores[0], [(stores[0], rows)], [np.arange(len(rows))]
        for store in stores[1:]:
            theirs = rows_of_same(first, store)[rows]
            there = np.flatnonzero(theirs >= 0)
            self._parts.append((store, theirs[there]))
            order.append(there)
        self.order = np.concatenate(order)
        self.shape = (len(self.order), first.dimension)
        self.dtype = first.identity.numpy_dtype
        self.absent = len(stores) * len(rows) - len(self.order)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the rows in order, as (b, d) arrays without identity, because the views have different identities."""
        for store, rows in self._parts:
            for block in store.stream(rows).blocks():
                yield np.asarray(block)

    def features(self) -> NDArray[Any]:
        """Return all rows as an (n, d) array."""
        return np.concatenate([np.asarray(store.features(rows=rows)) for store, rows in self._parts])
