"""Methods and classes of an open store: its counts, its keys, and its rows for pandas, Arrow and PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.store import tables
from featstore.text import natural, to_text

if TYPE_CHECKING:
    import pandas as pd

    from featstore.store.feature_store import FeatureStore
    from featstore.store.torch_rows import FeatureDataset

_INTEGERS = 1 << 63


@dataclass(frozen=True)
class Counts:
    """Numbers of live pictures: ``images`` = ``vectors`` + ``failures`` + ``pending``."""

    images: int
    vectors: int
    failures: int
    pending: int


class Keys(Sequence[str]):
    """The keys of a store's vectors, read on access.

    An int gives one key; a slice, an array of rows or a mask (n,) of bools gives a list, as NumPy would select them.
    Bytes that are not UTF-8 become surrogates (os.fsencode restores them). Raises IndexError for a row that does not
    exist.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    def __repr__(self) -> str:
        return f"<Keys of {str(self._store.path)!r}: {len(self):,}>"

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> str: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[np.integer[Any]] | NDArray[np.bool_]) -> list[str]: ...

    def __getitem__(self, index: Any) -> str | list[str]:
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(index)
            return to_text(next(iter(self._store._key_bytes(np.array([index % len(self)])))))
        return [to_text(key) for key in self._store._key_bytes(np.arange(len(self))[index])]

    def __iter__(self) -> Iterator[str]:
        return map(to_text, self._store._key_bytes(None))

    # Compare elementwise as NumPy does: store.keys == "a.jpg" is a mask of rows.
    def __eq__(self, other: object) -> Any:
        return np.asarray(list(self), dtype=object) == other

    def __ne__(self, other: object) -> Any:
        return np.asarray(list(self), dtype=object) != other

    __hash__ = None  # type: ignore[assignment]


class Converted:
    """The methods of FeatureStore that convert rows for other libraries, which are imported on first use."""

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame of all rows: key, id, label, split and every metadata column.

        Labels and splits become categories, and other texts become strings. Numbers and truth values become int64,
        float64 and bool, or pandas' nullable Int64 and boolean if values are missing. A metadata column named key or id
        is renamed to key_ or id_.
        """
        return frame_of(cast("FeatureStore", self))

    def to_arrow(self, *, memory_limit: int = defaults.MEMORY_LIMIT) -> Any:
        """Return a pyarrow.Table of all rows, for DuckDB, Polars, pandas and others (see featstore.store.arrow).

        Vectors (``vector``, a fixed-size list), keys and ids are views of the memory-mapped shards, and stay valid when
        the store is closed. Vectors are copied only from shards with many removed rows; raises UsageError if the copies
        need more than ``memory_limit`` bytes.
        """
        from featstore.store.arrow import table_of

        return table_of(cast("FeatureStore", self), memory_limit)

    def as_torch(self, split: str | None = None, *, dtype: str | None = None) -> FeatureDataset:
        """Return the rows of ``split`` (None: all) as a PyTorch dataset of (vector, label code); see FeatureDataset.

        ``dtype``: type of the vectors; by default the stored type. Raises UsageError if there is no such split.
        """
        from featstore.store.torch_rows import FeatureDataset

        store = cast("FeatureStore", self)
        return FeatureDataset(store, np.arange(len(store)) if split is None else store.split_rows(split), dtype)

    def _repr_html_(self) -> str:
        from featstore.notebook import table

        store = cast("FeatureStore", self)
        counts, identity = store.counts, store.identity
        weights = f"weights {store.weights_name}"
        rows = [
            ("pictures", f"{counts.vectors:,} with a vector, {counts.failures:,} failures, {counts.pending:,} pending"),
            (
                "features",
                f"{identity.dimension:,} x {identity.dtype} of {identity.backbone} ({identity.layer}), {weights}",
            ),
            ("columns", ", ".join(store.columns)),
            ("sources", ", ".join(str(source.get("location")) for source in store._plan.sources().values())),
            ("identity", store.fingerprint[:16]),
        ]
        return table(f"FeatureStore {store.path}", rows)


def frame_of(store: FeatureStore) -> pd.DataFrame:
    """Return the rows of ``store`` as a DataFrame (see FeatureStore.to_pandas)."""
    import pandas as pd

    frame = pd.DataFrame({"key": _typed(list(store.keys)), "id": store.ids})
    for name in store.columns:
        values = store.column(name).tolist()
        column = _categories(values) if name in (tables.LABEL, tables.SPLIT) else _typed(values)
        frame[name if name not in ("key", "id") else f"{name}_"] = column
    return frame


def _categories(values: list[Any]) -> pd.Series[Any]:
    import pandas as pd

    distinct = sorted({value for value in values if value is not None}, key=natural)
    codes = {value: code for code, value in enumerate(distinct)}
    numbers = [codes.get(value, -1) for value in values]
    return pd.Series(pd.Categorical.from_codes(numbers, categories=pd.Index(_texts(distinct))))


def _typed(values: list[Any]) -> pd.Series[Any]:
    """Return ``values`` (None: missing) as a column of the narrowest type that represents all of them exactly."""
    import pandas as pd

    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    missing = len(there) < len(values)
    if kinds == {str}:
        return pd.Series(_texts(values))
    if kinds == {bool}:
        return pd.Series(values, dtype="boolean" if missing else "bool")
    if kinds == {int} and all(-_INTEGERS <= value < _INTEGERS for value in there):
        return pd.Series(values, dtype="Int64" if missing else "int64")
    if kinds == {float}:
        return pd.Series(values, dtype="float64")
    # The column has values of several types, or no value at all: a conversion would change the values.
    return pd.Series(values, dtype=object)


def _texts(values: list[Any]) -> Any:
    import pandas as pd

    # pandas' Arrow strings cannot hold the surrogates of names that are not UTF-8.
    return pd.array(values, dtype=pd.StringDtype("python"))
