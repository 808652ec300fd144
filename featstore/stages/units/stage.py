"""Find the pictures that activate units of the network most and least."""

from __future__ import annotations

import os
from collections.abc import Sequence
from heapq import nsmallest
from operator import index
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import UsageError
from featstore.stages.units.of_class import OfClass, contributions, largest_contributions
from featstore.stages.units.report import Activation, UnitActivations, UnitsReport
from featstore.store import FeatureStore
from featstore.store.activations import activation_cells, activations, grid_of, unit_count
from featstore.store.origin import require_vectors, state_of_store
from featstore.text import counted, to_text

_COLUMN_BYTES: Final = 64 << 20
"""Largest number of bytes of activations to keep at once; more units are read in several passes over the store."""
_NAMED: Final = 5


def units(
    store: str | os.PathLike[str],
    unit: int | Sequence[int] = (),
    *,
    head: str | os.PathLike[str] | None = None,
    class_name: str | None = None,
    count: int = defaults.UNITS_OF_CLASS,
    n: int = defaults.UNIT_PICTURES,
    least: bool = False,
    where: str | None = None,
) -> UnitsReport:
    """Return the ``n`` pictures that activate each ``unit`` most, from the features in ``store``.

    A unit is an element of the vectors, counted from 0; if the store has activation maps (pool "none"), a unit is a
    channel, and its activation is the maximum over the map. ``least``: also return the ``n`` pictures that activate it
    least. ``where``: a condition that these pictures must meet (featstore.where); percentiles are among all pictures.

    ``head`` and ``class_name``: state the contribution of each unit to the class's decision value (see UnitActivations)
    and, without ``unit``, choose the ``count`` units whose contribution is largest. The head must be linear.

    Raises UsageError for an unknown unit or class, for a unit with the same or non-finite values, for a head without
    weights, and for invalid options; IdentityError for a head of other features; DamagedError for a damaged file.
    """
    named = dict.fromkeys(map(index, [unit] if isinstance(unit, int | np.integer) else unit))
    if n < 1 or count < 1:
        raise UsageError(f"{'n' if n < 1 else 'count'} has to be at least 1")
    if (head is None) != (class_name is None):
        raise UsageError("units of a class need both: a head, and the name of one of its classes")
    if not named and head is None:
        raise UsageError("no unit is named; name one by its number, such as 0, or a head and one of its classes")
    opened = FeatureStore.open(os.fspath(store))
    require_vectors(opened)
    total = unit_count(opened.identity)
    if unknown := [one for one in named if not 0 <= one < total]:
        raise UsageError(f"{opened.path}: has no unit {unknown[0]}; its units are 0 to {total - 1:,}")
    of_class, asked = None, list(named)
    if head is not None and class_name is not None:
        of_class = contributions(opened, os.fspath(head), class_name)
        asked = asked or largest_contributions(of_class.contributions, count, class_name)
    rows, notes = np.arange(len(opened)), state_of_store(opened)
    if where is not None:
        from featstore.where import absent_values, rows_where

        rows = np.flatnonzero(rows_where(opened, where))
        notes += [] if len(rows) else [f"no picture meets the condition {where}", *absent_values(opened, where)]
    found = []
    at_once = max(1, _COLUMN_BYTES // (4 * len(opened)))
    for start in range(0, len(asked), at_once):
        some = asked[start : start + at_once]
        columns = activations(opened, some)
        for at, one in enumerate(some):
            values = np.ascontiguousarray(columns[:, at])
            fault = _fault(opened, one, values)
            if fault and one in named:
                raise UsageError(f"{fault}; leave this unit out")
            # The user did not name this unit, so show it without pictures.
            notes += [fault] if fault else []
            found.append(_unit(opened, one, values, rows[:0] if fault else rows, n, least, of_class))
    name = None if head is None else os.fspath(head)
    return UnitsReport(opened, found, total, grid_of(opened.identity), where, len(rows), name, class_name, notes)


def _unit(
    store: FeatureStore,
    unit: int,
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    n: int,
    least: bool,
    of_class: OfClass | None,
) -> UnitActivations:
    """Return the ``n`` of ``rows`` with a unit's largest ``values``; if ``least``, also those with the smallest."""
    return UnitActivations(
        unit,
        float(values.min()),
        float(values.max()),
        float(values.mean(dtype=np.float64)),
        _end(store, unit, values, rows, n, largest=True),
        _end(store, unit, values, rows, n, largest=False) if least else [],
        None if of_class is None else float(values[of_class.pictures].mean(dtype=np.float64)),
        None if of_class is None else float(of_class.contributions[unit]),
    )


def _fault(store: FeatureStore, unit: int, values: NDArray[np.float32]) -> str:
    """Return a message if all ``values`` (n,) of a unit are equal, otherwise "". Raise UsageError, with the remedy, if
    they are not finite.
    """
    odd = np.flatnonzero(~np.isfinite(values))
    if len(odd):
        names = ", ".join(repr(key) for key in _keys(store, odd[:_NAMED])) + (", ..." if len(odd) > _NAMED else "")
        raise UsageError(
            f"{store.path}: unit {unit} is NaN or infinite for {counted(len(odd), 'picture')} ({names}); take them out with "
            "featstore remove, or extract again with --dtype float32"
        )
    if values.min() == values.max():
        return (
            f"{store.path}: unit {unit} has the value {values[0]:g} for every picture ({len(values):,}), so no picture "
            "activates it more than the others"
        )
    return ""


def _end(
    store: FeatureStore, unit: int, values: NDArray[np.float32], rows: NDArray[np.int64], n: int, *, largest: bool
) -> list[Activation]:
    """Return the ``n`` of ``rows`` with the largest (or smallest) ``values``; equal values are sorted by key."""
    chosen = first_rows(store, -values if largest else values, rows, n)
    labels = store.labels[chosen].tolist() if len(chosen) else []
    ids = store.ids[chosen].tolist()
    cells: list[tuple[int, int] | None] = [None] * len(chosen)
    if grid_of(store.identity) is not None:
        cells = list(activation_cells(store, unit, chosen.tolist()))
    shares = {value: 100 * np.count_nonzero(values < value) / len(values) for value in set(values[chosen].tolist())}
    return [
        Activation(key, number, label, value, shares[value], cell)
        for key, number, label, value, cell in zip(
            _keys(store, chosen), ids, labels, values[chosen].tolist(), cells, strict=True
        )
    ]


def first_rows(store: FeatureStore, values: NDArray[np.float32], rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the ``n`` of ``rows`` with the smallest ``values`` (those of all rows of ``store``), in ascending order.

    Rows with equal values are in the order of the bytes of their keys, and this order also decides which of them
    are returned. At most ``n`` keys are in memory at once.
    """
    own = values[rows]
    if n < len(rows):
        limit = np.partition(own, n - 1)[n - 1]
        sure, equal = rows[own < limit], rows[own == limit]
        if len(sure) + len(equal) > n:
            named = zip(store._key_bytes(equal), equal.tolist(), strict=True)
            equal = np.array([row for _, row in nsmallest(n - len(sure), named)], np.int64)
        rows = np.concatenate([sure, equal])
    keys = list(store._key_bytes(rows))
    order = sorted(range(len(rows)), key=lambda at: (values[rows[at]], keys[at]))
    return rows[np.array(order, np.int64)]


def _keys(store: FeatureStore, rows: NDArray[np.int64]) -> list[str]:
    return [to_text(key) for key in store._key_bytes(rows)]
