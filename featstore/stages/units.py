"""Find the pictures that activate units of the network most and least, and the units that speak most for a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest
from operator import index
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import IdentityError, UsageError
from featstore.store import FeatureStore
from featstore.store.activations import activation_cells, activations, by_unit, grid_of, mean_vectors, unit_count
from featstore.store.features import require_same
from featstore.store.origin import require_vectors, state_of_store
from featstore.text import counted, did_you_mean, to_text

if TYPE_CHECKING:
    from featstore.heads import TrainedHead

_COLUMN_BYTES: Final = 64 << 20
"""Largest number of bytes of activations to keep at once; more units are read in several passes over the store."""
_NAMED: Final = 5
_SHOWN_UNITS, _SHOWN_PICTURES = 10, 20
"""Largest number of units, and of pictures at each end, in the display of a report in a notebook."""


@dataclass(frozen=True)
class Activation:
    """A picture and its ``value``, the activation of one unit.

    ``percentile``: percentage of all pictures of the store whose value is smaller. ``cell``: (row, column) of the
    activation map at which the value occurs; None if the store has no maps of channels.
    """

    key: str
    id: int
    label: str | None
    value: float
    percentile: float
    cell: tuple[int, int] | None


@dataclass(frozen=True)
class UnitActivations:
    """The pictures that activate one unit of the network most and least.

    ``lowest``, ``highest`` and ``mean``: of the activations of all pictures of the store. ``most``: pictures in
    descending order of their values; ``least``: in ascending order; equal values are in the order of the keys.
    ``contribution``: how much the unit adds to the class's decision value, on average over the pictures of the class:
    weight x (activation - mean activation of all pictures). ``class_mean``: mean over the pictures of the class; if it
    is below ``mean``, the unit speaks for the class by being inactive. Both are None without a head.
    """

    unit: int
    lowest: float
    highest: float
    mean: float
    most: list[Activation]
    least: list[Activation]
    class_mean: float | None = None
    contribution: float | None = None

    def __repr__(self) -> str:
        return f"<UnitActivations: unit {self.unit}, {self.lowest:.4g} to {self.highest:.4g}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the unit's pictures as JSON types."""
        pictures = {name: [dict(one.__dict__) for one in getattr(self, name)] for name in ("most", "least")}
        return {**self.__dict__, **pictures}


@dataclass(frozen=True)
class UnitsReport:
    """Result of units.

    ``count``: number of units of the network. ``grid``: (rows, columns) of the activation maps, None if the store has
    none. ``kept``: number of pictures that meet the condition ``where``. ``head`` and ``class_name``: the class whose
    units were asked for, None without a head. ``notes``: warnings for the user.
    """

    store: FeatureStore
    units: list[UnitActivations]
    count: int
    grid: tuple[int, int] | None
    where: str | None
    kept: int
    head: str | None
    class_name: str | None
    notes: list[str]

    def __repr__(self) -> str:
        return f"<UnitsReport {str(self.store.path)!r}: {counted(len(self.units), 'unit')} of {self.count:,}>"

    def _repr_html_(self) -> str:
        from featstore.notebook import figure, gallery
        from featstore.store.pictures import Pictures
        from featstore.store.thumbnails import thumbnail_of

        pictures, rows = Pictures(self.store), []
        for one in self.units[:_SHOWN_UNITS]:
            for end, shown in (("most", one.most), ("least", one.least)):
                figures = []
                for found in shown[:_SHOWN_PICTURES]:
                    thumb = thumbnail_of(pictures, found.key)
                    caption = f"{found.value:.4g} {found.key}"
                    figures.append(figure(thumb.uri, caption, found.label, tiny=thumb.tiny, missing=thumb.note))
                if figures:
                    rows.append((f"unit {one.unit}, {end}", figures))
        more = len(self.units) - _SHOWN_UNITS
        notes = [f"{more:,} more units are not shown"] if more > 0 else []
        return gallery(repr(self), rows, [*notes, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Return the units and their pictures as JSON types."""
        return {
            "store": str(self.store.path),
            "pictures": len(self.store),
            "layer": self.store.identity.layer,
            "count": self.count,
            "grid": self.grid,
            "where": self.where,
            "kept": self.kept,
            "head": self.head,
            "class": self.class_name,
            "units": [one.to_dict() for one in self.units],
            "notes": self.notes,
        }


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
        of_class = _contributions(opened, os.fspath(head), class_name)
        asked = asked or _largest(of_class.contributions, count, class_name)
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


@dataclass(frozen=True)
class _OfClass:
    """A class of a head: the mask (n,) of its pictures, and the ``contributions`` (units,) to its decision value."""

    pictures: NDArray[np.bool_]
    contributions: NDArray[np.float64]


def _unit(
    store: FeatureStore,
    unit: int,
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    n: int,
    least: bool,
    of_class: _OfClass | None,
) -> UnitActivations:
    """Return the pictures among ``rows`` at the ends of a unit's ``values`` (n,)."""
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
    """Return the ``n`` of ``rows`` with the largest (or smallest) of ``values``; equal values by key."""
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
    are returned. Memory holds the keys of at most ``n`` rows.
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


def _contributions(store: FeatureStore, path: str, class_name: str) -> _OfClass:
    """Return the contribution of each unit to the decision value of a class of the head at ``path``.

    Raises UsageError for a head without weights, an unknown class, a class without pictures in ``store``, and features
    that are not finite; IdentityError for a head of other features.
    """
    from featstore.artifacts import open_head

    head = open_head(path)
    require_same(head.identity, store, f"the head {path}", head.fingerprint)
    if head.dimension != store.dimension:
        raise IdentityError(
            f"{path}: was trained on vectors of {head.dimension:,} values, and those of {store.path} have "
            f"{store.dimension:,}; use the store that the head was trained on"
        )
    if class_name not in head.classes:
        raise UsageError(
            f"{path}: has no class {class_name!r}{did_you_mean(class_name, head.classes)}"
            f" ({counted(len(head.classes), 'class', 'classes')}; featstore info {path} lists them)"
        )
    weights = _weights(head, path, class_name)
    chosen = np.asarray(store.labels == class_name, np.bool_)
    if not chosen.any():
        raise UsageError(
            f"{store.path}: no picture has the label {class_name!r}, so no activations of the class are known; "
            "set labels with featstore label, or name another class"
        )
    every, some = mean_vectors(store, chosen)
    if not (np.isfinite(every).all() and np.isfinite(some).all()):
        number = int(np.flatnonzero(~(np.isfinite(every) & np.isfinite(some)))[0])
        raise UsageError(
            f"{store.path}: value {number} of some vectors is NaN or infinite; featstore units {store.path} --unit "
            f"{int(np.flatnonzero(by_unit(np.eye(1, store.dimension, number)[0], store.identity))[0])} names the pictures"
        )
    return _OfClass(chosen, by_unit(weights * (some - every), store.identity))


def _weights(head: TrainedHead, path: str, class_name: str) -> NDArray[np.float64]:
    """Return the weights (d,) of a class of a linear head. Raises UsageError if the head is not linear."""
    from featstore.heads.models import LinearModel

    if not isinstance(head.model, LinearModel):
        raise UsageError(
            f"{path}: a head of the kind {head.kind} has no weights of units; train a linear one with "
            "featstore train --head logreg (or linear-svm)"
        )
    code, coef = head.classes.index(class_name), head.model.coef
    if len(coef) > 1:
        return np.asarray(coef[code])
    # With two classes, the only decision value speaks for the second class.
    return np.asarray(coef[0] if code == 1 else -coef[0])


def _largest(contributions: NDArray[np.float64], count: int, class_name: str) -> list[int]:
    """Return at most ``count`` units with the largest positive ``contributions``; equal ones by number."""
    order = np.argsort(-contributions, kind="stable")[:count]
    chosen = [one for one in order.tolist() if contributions[one] > 0]
    if not chosen:
        raise UsageError(
            f"no unit has a positive contribution to the class {class_name!r}; name units by their numbers to see theirs"
        )
    return chosen
