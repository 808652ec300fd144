"""Functions for sorted arrays of row ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def member(ids: Ids, among: Ids) -> NDArray[np.bool_]:
    """Return whether each id is in the sorted array ``among``."""
    if not len(among):
        return np.zeros(len(ids), bool)
    found: NDArray[np.bool_] = among[place(ids, among)] == ids
    return found


def place(ids: Ids, among: Ids) -> NDArray[np.int64]:
    """Return the index of each id in the sorted, non-empty array ``among``.

    For an id that is not in ``among`` the result is an arbitrary valid index.
    """
    return np.minimum(np.searchsorted(among, ids), len(among) - 1)


def ascending(parts: Sequence[Ids]) -> Ids:
    """Return the distinct ids of ``parts``, ascending."""
    every = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
    # np.unique is not used here, because it imports all of numpy.ma.
    return every[np.append(every[:-1] != every[1:], True)] if len(every) else every
