"""The result of units: the pictures that activate units of the network most and least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from featstore.store import FeatureStore
from featstore.text import counted

_SHOWN_UNITS: Final = 10
_SHOWN_PICTURES: Final = 20
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

    ``lowest``, ``highest`` and ``mean``: lowest, highest and mean activation over all pictures of the store. ``most``:
    pictures in descending order of their values; ``least``: in ascending order; equal values are in the order of the
    keys. ``contribution``: how much the unit adds to the class's decision value, on average over the pictures of the
    class: weight x (activation - mean activation of all pictures). A channel of activation maps adds the sum of this
    product over its cells, although its activation is the maximum. ``class_mean``: mean activation over the pictures of
    the class. If it is below ``mean``, a low activation of the unit is typical of the class. ``contribution`` and
    ``class_mean`` are None without a head.
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
