"""A CSV, TSV or Parquet table that names pictures, with their labels, splits and metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from featstore.errors import UsageError
from featstore.sources.base import ROWS, Chunk, Row, chunked, label_text, shown, without_dot
from featstore.sources.reading import stat_picture
from featstore.sources.tabular import Table, open_table, scalar

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
LABEL_NAMES: Final = ("label", "class", "target", "category", "y")
SPLIT_NAMES: Final = ("split", "subset", "set", "partition")


@dataclass(frozen=True)
class Columns:
    """The names of the columns that have a meaning of their own; None where a table has none."""

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
) -> Columns:
    """Return which column is which: the one that is named, else the first that is called so in any case.

    The names, in order of preference, are PATH_NAMES, ID_NAMES, LABEL_NAMES and SPLIT_NAMES; a column that was
    named for one purpose is not taken for another. Raises UsageError where a named column is not there.
    """
    named = (path_column, id_column, label_column, split_column)
    for name in named:
        if name is not None and name not in table.columns:
            raise UsageError(f"{shown(table.path)}: has no column {shown(name)!r}; its columns are {_list(table)}")
    free = {column.lower(): column for column in reversed(table.columns) if column not in named}
    usual = (PATH_NAMES, ID_NAMES, LABEL_NAMES, SPLIT_NAMES)
    return Columns(
        *(
            option or next((free[name] for name in names if name in free), None)
            for option, names in zip(named, usual, strict=True)
        )
    )


def _list(table: Table) -> str:
    return ", ".join(shown(column) for column in table.columns)


class TableSource:
    """The pictures that a table names.

    Columns are found as in find_columns. The key is the id where there is an id column, else the path as
    written without a leading ``./``. Relative paths are resolved against ``root`` (default: the table's
    folder) and may not leave it; absolute paths are used as they are, whatever ``root`` is. Empty labels and
    splits are None; all other columns are metadata (text from CSV; from Parquet see tabular.scalar).
    Raises UsageError where there is no path column, or a metadata column holds binary data.
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
    ) -> None:
        self._path = Path(os.path.abspath(path))
        self.location = str(self._path)
        self.root = Path(os.path.abspath(root)) if root is not None else self._path.parent
        self.notes: list[str] = []
        self.layout: str | None = None
        self.ignored = 0
        self._table = open_table(self._path)
        self.columns = find_columns(
            self._table,
            path_column=path_column,
            id_column=id_column,
            label_column=label_column,
            split_column=split_column,
        )
        if self.columns.path is None:
            raise UsageError(
                f"{shown(self.location)}: has no column of paths ({', '.join(PATH_NAMES)}); "
                f"name it with --path-column: the columns are {_list(self._table)}"
            )
        used = set(asdict(self.columns).values())
        self._metadata = [name for name in self._table.columns if name not in used]
        binary = self._table.binary.intersection(self._metadata)
        if binary:
            name = shown(min(binary))
            raise UsageError(f"{shown(self.location)}: the column {name!r} holds binary data; drop it from the table")

    def describe(self) -> dict[str, Any]:
        """Return kind, location, root, the columns used and the metadata's names as JSON."""
        return {
            "kind": self.kind,
            "location": self.location,
            "root": str(self.root),
            "columns": asdict(self.columns),
            "metadata": self._metadata,
        }

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all rows; see Source.chunks. Raises UsageError, naming the line, where one has no path or id."""
        empty = True
        for chunk in chunked(self._rows(), rows, self._metadata):
            empty = False
            yield chunk
        if empty:
            raise UsageError(f"{shown(self.location)}: holds no pictures: the table has a header and no rows")

    def _rows(self) -> Iterator[Row]:
        root = os.fsencode(self.root)
        index = self._table.columns.index
        path_at, id_at, label_at, split_at = (
            None if name is None else index(name) for name in asdict(self.columns).values()
        )
        metadata_at = [index(name) for name in self._metadata]
        for place, values in self._table.records():
            path = without_dot(self._name(place, "path", values, path_at))
            if not path:
                raise UsageError(f"{shown(self.location)}: {place} has no path; fill it in or drop the row")
            key = path if id_at is None else self._name(place, "id", values, id_at)
            size, mtime = stat_picture(root, path)
            yield Row(
                key,
                size,
                mtime,
                location=None if id_at is None else path,
                label=None if label_at is None else label_text(values[label_at]),
                split=None if split_at is None else label_text(values[split_at]),
                metadata=tuple(scalar(values[position]) for position in metadata_at),
            )

    def _name(self, place: str, what: str, values: Sequence[Any], position: int | None) -> bytes:
        value = None if position is None else values[position]
        if isinstance(value, int) and what == "id":
            value = str(value)
        if value is not None and not isinstance(value, str | bytes):
            kind = type(value).__name__
            raise UsageError(f"{shown(self.location)}: {place} has a {what} of type {kind}; it must be text")
        if not value:
            raise UsageError(f"{shown(self.location)}: {place} has no {what}; fill it in or drop the row")
        return os.fsencode(value)
