"""Methods of an open store about regions: their pictures and boxes, and vectors pooled by picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.store.features import FeatureArray
from featstore.store.rows import COLUMNS, parents
from featstore.text import to_bytes, to_text

if TYPE_CHECKING:
    from featstore.store.feature_store import FeatureStore

By = Literal["mean", "max"]


class Regional:
    """The methods of FeatureStore for rows that are regions of pictures."""

    @property
    def has_regions(self) -> bool:
        """Whether some rows are regions of pictures; if so, the store has the columns parent, x, y, w and h."""
        return cast("FeatureStore", self)._plan.has_regions

    @property
    def parents(self) -> NDArray[np.object_]:
        """(n,) objects: the key of each row's picture; for a whole picture, its own key."""
        store = cast("FeatureStore", self)
        if not store.has_regions:
            return np.array([*store.keys, None], object)[:-1]
        keys = list(store._key_bytes(None))
        found = [to_text(key) for key in parents(keys, store._plan.regions(store.ids))]
        return np.array([*found, None], object)[:-1]

    def parent_of(self, key: str) -> str:
        """Return the key of the picture that contains the region ``key``; ``key`` itself for a whole picture."""
        plan, name = cast("FeatureStore", self)._plan, to_bytes(key)
        ids = plan.find_keys([name])
        return key if ids[0] < 0 else to_text(parents([name], plan.regions(ids))[0])

    def by_parent(self, how: By = "mean") -> tuple[list[str], FeatureArray]:
        """Return the keys of the p pictures, in the order of their first rows, and one pooled vector for each picture,
        (p, d).

        ``how``: elementwise "mean" or "max" over the vectors of a picture's rows. Needs memory for p x d float64
        numbers.
        """
        store = cast("FeatureStore", self)
        check_how(how)
        names, codes = numbered(store.parents)
        total = np.full((len(names), store.dimension), -np.inf if how == "max" else 0.0)
        start = 0
        for block in store.blocks():
            at = codes[start : start + len(block)]
            (np.maximum if how == "max" else np.add).at(total, at, np.asarray(block, np.float64))
            start += len(block)
        if how == "mean":
            total /= np.bincount(codes, minlength=len(names))[:, None]
        return names, FeatureArray(total.astype(store.identity.numpy_dtype), store.identity)

    def _region_column(self, name: str) -> NDArray[np.object_]:
        """Return the column parent, x, y, w or h (n,); x, y, w and h are None for a whole picture."""
        store = cast("FeatureStore", self)
        if name == COLUMNS[0]:
            return store.parents
        regions = store._plan.regions(store.ids)
        values = regions[:, COLUMNS.index(name) - 1].astype(object)
        values[regions[:, 4] == 0] = None
        return cast("NDArray[np.object_]", values)


def check_how(how: str) -> None:
    """Raise UsageError if ``how`` is neither "mean" nor "max"."""
    if how not in ("mean", "max"):
        raise UsageError(f"rows of one picture are joined by mean or max, not by {how!r}")


def numbered(values: NDArray[np.object_]) -> tuple[list[Any], NDArray[np.int64]]:
    """Return the distinct values in the order in which they first occur, and each row's index (n,) into them."""
    numbers: dict[Any, int] = {}
    codes = np.array([numbers.setdefault(value, len(numbers)) for value in values.tolist()], np.int64)
    return list(numbers), codes
