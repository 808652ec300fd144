"""The columns of a table that contain boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from featstore.errors import UsageError
from featstore.sources.base import Row
from featstore.sources.regions import REGION_NAMES, Boxes, Cut, Sizes, are_shares, number_of, region_name
from featstore.sources.tabular import Table, names_of_columns
from featstore.text import counted, did_you_mean, shown


class BoxColumns:
    """Read boxes and names of regions from the columns of a table. Raises UsageError if the table lacks a column.

    A row whose four box values are missing is the whole picture. The name of a region is in ``cut.region_column``, by
    default in a column of REGION_NAMES; without such a column the four values are the name. If ``cut.unit`` is "auto",
    boxes are fractions of the picture if no number is larger than 1.5, otherwise pixels.
    """

    def __init__(self, table: Table, cut: Cut) -> None:
        self._table, self._cut = table, cut
        self._names = [self._column(name) for name in cut.boxes or ()]
        usual = next((name for name in table.columns if name.strip().lower() in REGION_NAMES), None)
        self._region = (
            usual if cut.region_column is None else self._column(cut.region_column) if cut.region_column else None
        )
        self._at = [table.columns.index(name) for name in self._names]
        self._boxes: Boxes | None = None

    def _column(self, name: str) -> str:
        if name not in self._table.columns:
            raise UsageError(
                f"{shown(self._table.path)}: has no column {shown(name)!r} for its boxes; its columns are "
                f"{names_of_columns(self._table)}{did_you_mean(name, self._table.columns)}"
            )
        return name

    @property
    def names(self) -> list[str]:
        """Names of the columns with boxes and region names."""
        return [name for name in (*self._names, self._region) if name is not None]

    def others(self, metadata: Sequence[str]) -> list[str]:
        """Return the names in ``metadata`` that are not columns with boxes or region names."""
        return [name for name in metadata if name not in self.names]

    def begin(self, root: Path) -> Callable[[Row, str, Sequence[Any], bytes], Row]:
        """Return a function that turns the row of a picture into the row of a region.

        The function takes: the row of the picture, its place in the table (for messages), the values of its record in
        the table, and the location of the picture.
        """
        unit = self._cut.unit
        shares = unit == "shares" or (unit == "auto" and are_shares(self._all()))
        boxes = self._boxes = Boxes(Sizes(self._cut.measure, root), shares)
        region_at = None if self._region is None else self._table.columns.index(self._region)

        def region(row: Row, place: str, values: Sequence[Any], location: bytes) -> Row:
            box = self._box(place, values)
            name = None
            if region_at is not None and box is not None:
                name = region_name(values[region_at], f"{self._table.path}: {place}")
            return boxes.row(row, box, name, location)

        return region

    def _all(self) -> Iterator[list[float] | None]:
        return (self._box(place, values) for place, values in self._table.records())

    def _box(self, place: str, values: Sequence[Any]) -> list[float] | None:
        box = []
        for name, at in zip(self._names, self._at, strict=True):
            try:
                box.append(number_of(values[at]))
            except ValueError:
                raise UsageError(
                    f"{shown(self._table.path)}: {place} has {shown(str(values[at]))!r} as {shown(name)}, which is no "
                    "number; mend it, or leave the four values of the box empty for the whole picture"
                ) from None
        if all(value is None or value != value for value in box):
            return None
        return [float("nan") if value is None else value for value in box]

    @property
    def read_as(self) -> str:
        """One line for the user that states the unit of the boxes, and the column from which the names of the regions
        come.
        """
        assert self._boxes is not None
        unit = "shares of the picture" if self._boxes.shares else "pixels"
        how = ", as --box-unit says" if self._cut.unit != "auto" else " (--box-unit changes it)"
        names = "their values" if self._region is None else f"the column {shown(self._region)!r}"
        whole = f", {counted(self._boxes.whole, 'row')} without one" if self._boxes.whole else ""
        return f"boxes in {unit}{how}, named by {names}{whole}"

    def notes(self) -> list[str]:
        """Return notes on boxes that were clipped, and on boxes whose extraction will fail."""
        return [] if self._boxes is None else self._boxes.notes()
