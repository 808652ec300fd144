"""Read the values of lists, arrays, Series and one-column tables in one way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from featstore.errors import UsageError


def column(values: Any, what: str) -> Iterable[Any]:
    """Return the values of a list, an array (n,) or (n, 1), a Series or a table with one column, in order.

    Tables are those of pandas, polars and pyarrow; iterating over them would yield column names. ``what``: name of the
    values for messages, in the plural, such as "labels". Raises UsageError for a single text or path, for unordered
    collections, and for tables with several columns.
    """
    if isinstance(values, Mapping | Set):
        raise UsageError(f"{what} have to come in an order, which a {type(values).__name__} does not have; give a list")
    if hasattr(values, "columns") and hasattr(values, "shape"):
        if values.shape[1] != 1:
            raise UsageError(
                f"{what} are one column, and this table has {values.shape[1]}; choose one, as in table['path']"
            )
        return list(np.asarray(values, dtype=object)[:, 0])
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise UsageError(f"{what} have to come in a list or an array, not as one value")
    if isinstance(values, str | bytes | os.PathLike) or not isinstance(values, Iterable):
        raise UsageError(f"{what} have to come in a list or an array, not as one {type(values).__name__}")
    if hasattr(values, "to_pylist"):
        return list(values.to_pylist())
    if isinstance(values, np.ndarray) and values.dtype.kind in "OUST" and values.ndim == 2 and values.shape[1] == 1:
        return list(values[:, 0])
    return values


def is_missing(value: Any) -> bool:
    """Return whether ``value`` is a missing value: None, NaN, pandas.NA or NaT."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    return type(value).__name__ in ("NAType", "NaTType")
