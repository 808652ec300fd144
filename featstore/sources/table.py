"""A CSV, TSV or Parquet table of pictures, with labels, splits and metadata."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from featstore.errors import UsageError
from featstore.sources.base import ROWS, Chunk, NoLabel, Row, chunked, is_picture_name, label_text, without_dot
from featstore.sources.box_columns import BoxColumns
from featstore.sources.finding import Finder
from featstore.sources.regions import Cut
from featstore.sources.tabular import Table, names_of_columns, open_table, scalar
from featstore.sources.tally import Tally
from featstore.text import did_you_mean, is_misspelling, lookalike_key, shown, to_bytes

PATH_NAMES: Final = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "img",
    "img_path",
)
ID_NAMES: Final = ("id", "key", "image_id")
LABEL_NAMES: Final = ("label", "labels", "class", "class_name", "target", "category", "y")
SPLIT_NAMES: Final = ("split", "subset", "set", "partition")


@dataclass(frozen=True)
class Columns:
    """Names of the path, id, label and split columns; None if the table has no such column."""

    path: str | None
    id: str | None
    label: str | None
    split: str | None


def find_columns(
    table: Table,
    *,
    path_column: str | None = None,
    id_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    taken: Collection[str] = (),
) -> Columns:
    """Return the columns for path, id, label and split: the given columns, or by default columns with a usual name.

    The usual names, in order of preference, are PATH_NAMES, ID_NAMES, LABEL_NAMES and SPLIT_NAMES, in any case, also
    with blanks or hyphens ("Class Name"). A column that is given for one purpose, or is in ``taken``, is not chosen for
    another purpose by its usual name. If there are columns x, y, w and h, y is not a label. The name "" means that
    there is no such column. Raises UsageError if a given column does not exist, or if no column has a usual name for
    labels (or splits) but the name of a column looks like a misspelling of a usual name.
    """
    named = tuple(
        None if name is None else name if name == "" else _named(table, name)
        for name in (path_column, id_column, label_column, split_column)
    )
    free = {usual_form(column): column for column in reversed(table.columns) if column not in (*named, *taken)}
    if {"x", "y", "w", "h"} <= set(free):
        # With x, w and h, the column y is a coordinate of boxes, not a label.
        del free["y"]
    usual = (PATH_NAMES, ID_NAMES, LABEL_NAMES, SPLIT_NAMES)
    found = Columns(
        *(
            (option or None) if option is not None else next((free[name] for name in names if name in free), None)
            for option, names in zip(named, usual, strict=True)
        )
    )
    for what, option, there in (("label", label_column, found.label), ("split", split_column, found.split)):
        if option is None and there is None:
            _refuse_misspelt(
                table, what, [column for name, column in free.items() if column not in asdict(found).values()]
            )
    return found


def usual_form(column: str) -> str:
    """Return a column's name in the form of the usual names: lower case, underscores instead of blanks and hyphens."""
    return "_".join(column.lower().replace("-", " ").split())


def settle_columns(
    table: Table,
    *,
    path_column: str | None,
    id_column: str | None,
    label_column: str | None,
    split_column: str | None,
    taken: Collection[str] = (),
) -> tuple[Columns, list[str], list[str]]:
    """Return the columns that ``find_columns`` chooses, the names of all other columns, and notes on these (see
    ``doubts``).
    """
    columns = find_columns(
        table,
        path_column=path_column,
        id_column=id_column,
        label_column=label_column,
        split_column=split_column,
        taken=taken,
    )
    used = set(asdict(columns).values())
    others = [name for name in table.columns if name not in used]
    return columns, others, doubts(table, columns, label_column=label_column, split_column=split_column)


def doubts(
    table: Table, columns: Columns, *, label_column: str | None = None, split_column: str | None = None
) -> list[str]:
    """Return notes on columns that also have a usual name for labels or splits, but were not chosen."""
    notes = []
    for what, option, taken, names in (
        ("label", label_column, columns.label, LABEL_NAMES[:-1]),
        ("split", split_column, columns.split, SPLIT_NAMES),
    ):
        used = asdict(columns).values()
        others = [column for column in table.columns if usual_form(column) in names and column not in used]
        if option is None and taken is not None and others:
            notes.append(
                f"{shown(taken)!r} is taken for the {what}, {shown(others[0])!r} is not (--{what}-column changes it)"
            )
    return notes


def _named(table: Table, name: str) -> str:
    """Return the column called ``name``; if missing, the only column that differs only in case, spaces or hyphens.

    Raises UsageError if there is no such column.
    """
    if name in table.columns:
        return name
    alike = [column for column in table.columns if lookalike_key(column) == lookalike_key(name)]
    if len(alike) == 1:
        return alike[0]
    close = did_you_mean(name, table.columns)
    raise UsageError(
        f"{shown(table.path)}: has no column {shown(name)!r}; its columns are {names_of_columns(table)}{close}"
    )


def _refuse_misspelt(table: Table, what: str, columns: Sequence[str]) -> None:
    names = LABEL_NAMES if what == "label" else SPLIT_NAMES
    for column in columns:
        name = next((name for name in names if is_misspelling(column.strip().lower(), name)), None)
        if name is not None:
            raise UsageError(
                f"{shown(table.path)}: has no column of {what}s, but one called {shown(column)!r}; did you mean {name!r}? "
                f"--{what}-column {shown(column)} takes it, --{what}-column '' leaves it as metadata"
            )


def no_label_message(table: str | os.PathLike[str], place: str, what: str, error: NoLabel) -> str:
    """Return the error message for a value that cannot be a label or split."""
    return (
        f"{shown(table)}: {place} has a {what} that {error}; name another column with --{what}-column, or none with "
        f"--{what}-column ''"
    )


def _quoted(name: str | None) -> str:
    return repr(shown(name or ""))


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:8])) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")


class TableSource:
    """The pictures in a table.

    Files are found with Finder, also if a path has backslashes or another Unicode form. Columns are found with
    find_columns. The key is the id if there is an id column, otherwise the path as written without a leading ``./``.
    Relative paths are resolved against ``root`` (default: the table's folder) and may not leave it; absolute paths are
    used unchanged. If ``cut.boxes`` is given, each row is a region (see BoxColumns). Empty labels and splits are None.
    All other columns are metadata (text from CSV; from Parquet see tabular.scalar). Raises UsageError if there is no
    path column, or if a metadata column contains binary data.
    """

    kind: str = "table"

    def __init__(
        self,
        path: Path,
        *,
        root: Path | None = None,
        path_column: str | None = None,
        id_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        cut: Cut | None = None,
    ) -> None:
        self._path = Path(os.path.abspath(path))
        self.location = str(self._path)
        self.root = Path(os.path.abspath(root)) if root is not None else self._path.parent
        self.notes: list[str] = []
        self.layout: str | None = None
        self.ignored, self.read_as, self.unfound = 0, "", ""
        self._table = open_table(self._path)
        self._boxes = None if cut is None or cut.boxes is None else BoxColumns(self._table, cut)
        self.columns, self._metadata, self._doubts = settle_columns(
            self._table,
            path_column=path_column,
            # In a table of boxes, the id often identifies the box, not its picture, so it is used only if the user
            # asks.
            id_column=id_column if self._boxes is None or id_column is not None else "",
            label_column=label_column,
            split_column=split_column,
            taken=() if self._boxes is None else self._boxes.names,
        )
        if self.columns.path is None:
            raise UsageError(self._without_paths())
        if self._boxes is not None:
            self._metadata = self._boxes.others(self._metadata)
        binary = self._table.binary.intersection(self._metadata)
        if binary:
            name = shown(min(binary))
            raise UsageError(f"{shown(self.location)}: the column {name!r} holds binary data; drop it from the table")

    def describe(self) -> dict[str, Any]:
        """Return kind, location, root folder, columns and names of the metadata of the table, as JSON types."""
        return {
            "kind": self.kind,
            "location": self.location,
            "root": str(self.root),
            "columns": asdict(self.columns),
            "metadata": self._metadata,
            **({} if self._boxes is None else {"cut": {"boxes": True}}),
        }

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all rows; see Source.chunks.

        Raises UsageError that names the line for a row without a path or id, or with an invalid label.
        """
        tally, find = Tally(), Finder(os.fsencode(self.root))
        yield from tally.watch(chunked(self._rows(find), rows, self._metadata))
        if not tally.rows:
            raise UsageError(f"{shown(self.location)}: holds no pictures: the table has a header and no rows")
        label, split = self.columns.label, self.columns.split
        self.read_as = tally.line(f"the column {_quoted(label)}", f"the column {_quoted(split)}", self._rest())
        self.notes = [*self._doubts, *find.notes(), *tally.notes("--label-column")]
        if self._boxes is not None:
            self.read_as += f", {self._boxes.read_as}"
            self.notes += self._boxes.notes()
        if label is not None and not tally.classes:
            self.notes.append(
                f"the column {_quoted(label)} is empty: no picture has a label (--label-column changes it)"
            )
        self.unfound = find.unfound()

    def _rest(self) -> str:
        """Return a text for the user that names the key column and the metadata columns."""
        columns = f"columns {_some(self._metadata)}" if self._metadata else "no other columns"
        return f"keys from the column {_quoted(self.columns.id or self.columns.path)}, {columns}"

    def _without_paths(self) -> str:
        if any(is_picture_name(to_bytes(name.strip())) for name in self._table.columns):
            return (
                f"{shown(self.location)}: its first line names a picture, where it must name the columns; put a line "
                "such as path,label above it"
            )
        return (
            f"{shown(self.location)}: has no column of paths ({', '.join(PATH_NAMES)}); "
            f"name it with --path-column: the columns are {names_of_columns(self._table)}"
        )

    def _rows(self, find: Finder) -> Iterator[Row]:
        places = {name: position for position, name in enumerate(self._table.columns)}
        path_at, id_at, label_at, split_at = (
            None if name is None else places[name] for name in asdict(self.columns).values()
        )
        metadata_at = [places[name] for name in self._metadata]
        boxes = None if self._boxes is None else self._boxes.begin(self.root)
        found: tuple[bytes, tuple[bytes, int, int]] | None = None
        for place, values in self._table.records():
            path = without_dot(self._name(place, "path", values, path_at))
            if not path:
                raise UsageError(f"{shown(self.location)}: {place} has no path; fill it in or drop the row")
            key = path if id_at is None else self._name(place, "id", values, id_at)
            if found is None or found[0] != path:
                found = path, find(path)
            location, size, mtime = found[1]
            row = Row(
                key,
                size,
                mtime,
                location=None if location == key else location,
                label=None if label_at is None else self._label(place, "label", values[label_at]),
                split=None if split_at is None else self._label(place, "split", values[split_at]),
                metadata=tuple(scalar(values[position]) for position in metadata_at),
            )
            yield row if boxes is None else boxes(row, place, values, location)

    def _label(self, place: str, what: str, value: Any) -> str | None:
        try:
            return label_text(value)
        except NoLabel as error:
            raise UsageError(no_label_message(self.location, place, what, error)) from None

    def _name(self, place: str, what: str, values: Sequence[Any], position: int | None) -> bytes:
        value = None if position is None else values[position]
        if isinstance(value, int) and what == "id":
            value = str(value)
        if value is not None and not isinstance(value, str | bytes):
            kind = type(value).__name__
            raise UsageError(f"{shown(self.location)}: {place} has a {what} of type {kind}; it must be text")
        if not value:
            raise UsageError(f"{shown(self.location)}: {place} has no {what}; fill it in or drop the row")
        return to_bytes(value) if isinstance(value, str) else value
