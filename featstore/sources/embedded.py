"""Pictures embedded in Parquet files, in a column of structs with bytes and path (Hugging Face datasets) or of bytes.

The location of a picture is the path of the Parquet file, a NUL byte and the column's name; its offset is the row
number. The rows of a row group are read in order, in small batches: sequential access, as in extraction, is fast;
random access is slow. Memory is about twice the largest Parquet page. pyarrow writes pages of up to 1,024 rows, Hugging
Face's files have pages of 100 rows.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.base import ROWS, Chunk, NoLabel, Row, chunked, label_text
from featstore.sources.class_names import class_names, named
from featstore.sources.folder import walk
from featstore.sources.layout import split_words
from featstore.sources.table import no_label_message, settle_columns
from featstore.sources.tabular import ParquetTable, scalar
from featstore.sources.tally import Tally
from featstore.text import shown, to_bytes

SUFFIXES: Final = (b".parquet", b".pq")
_ROWS: Final = 8
"""Number of rows of a Parquet file that are read at once."""
_LONGEST_PATH: Final = 4096


def picture_column(path: Path, named: str | None) -> str | None:
    """Return the name of the first column of a Parquet file that has embedded pictures, or None.

    A column has pictures if it has structs with a field "bytes", or bytes whose first value cannot be a path.
    ``named``: if given, only this column is considered. Raises FeatstoreError for an unreadable file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with _readable(path):
        schema = parquet.read_schema(path)
        for field in schema:
            if named not in (None, "", field.name):
                continue
            if pa.types.is_struct(field.type) and _bytes_field(field.type):
                return str(field.name)
            if _is_bytes(field.type) and _first(path, field.name):
                return str(field.name)
    return None


class ParquetSource:
    """The pictures embedded in a Parquet file, or in all Parquet files below a folder, sorted by the bytes of their
    paths.

    ``path_column``: the column of pictures, by default the first one found. Keys are ``<file>/<row>``, with the file
    relative to ``root`` (default: its folder) and rows from 0; if ``id_column`` is given, keys are its values. Labels,
    splits and metadata are as in a table, with two additions: a class number (Hugging Face's ClassLabel) becomes the
    class's name, and without a split column the file name gives the split (train-00000-of-00002.parquet). Other columns
    of bytes are left out. Sizes and times are those of the files. Raises UsageError if the columns differ between
    files.
    """

    kind: str = "parquet"

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
        self.root = Path(os.path.abspath(root)) if root is not None else self._folder
        self.files = (
            [self._path]
            if not self._path.is_dir()
            else [
                self._path / os.fsdecode(found.path) for found in walk(self._path) if is_parquet_name(found.entry.name)
            ]
        )
        self.notes: list[str] = []
        self.layout: str | None = None
        self.ignored, self.read_as, self.unfound = 0, "", ""
        first = self.files[0]
        column = picture_column(first, path_column)
        if column is None:
            raise UsageError(
                f"{shown(first)}: has no column of pictures; name one with --path-column, or, where it is a table of paths, "
                "name a single table"
            )
        self.column = column
        table = ParquetTable(first)
        self.columns, others, self._doubts = settle_columns(
            table, path_column=column, id_column=id_column, label_column=label_column, split_column=split_column
        )
        self._metadata = [name for name in others if name not in table.binary]
        if left := [name for name in others if name in table.binary]:
            self._doubts.append(
                f"{shown(column)!r} holds the pictures; {shown(left[0])!r}, which has bytes too, is left out "
                "(--path-column changes it)"
            )
        names = [file.name.partition("-")[0] for file in self.files]
        self._splits = split_words(names) if self.columns.split is None and split_column != "" else {}

    @property
    def _folder(self) -> Path:
        return self._path if self._path.is_dir() else self._path.parent

    def describe(self) -> dict[str, Any]:
        """Return kind, location, root folder, columns and names of the metadata of this source, as JSON types."""
        columns = {"path": self.column, "id": self.columns.id, "label": self.columns.label, "split": self.columns.split}
        return {
            "kind": self.kind,
            "location": self.location,
            "root": str(self.root),
            "columns": columns,
            "metadata": self._metadata,
        }

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all rows; see Source.chunks. Raises UsageError that names file and row for an invalid label."""
        tally = Tally()
        yield from tally.watch(chunked(self._rows(), rows, [*self._metadata, f"{self.column}.path"]))
        if not tally.rows:
            raise UsageError(f"{shown(self.location)}: holds no pictures: the table has no rows")
        split = f"the column {self.columns.split!r}" if self.columns.split is not None else "file names"
        files = f"pictures in the column {shown(self.column)!r} of {len(self.files):,} file(s)"
        self.read_as = tally.line(f"the column {self.columns.label!r}", split, files)
        self.notes = [*self._doubts, *tally.notes("--label-column")]

    def _rows(self) -> Iterator[Row]:
        root = os.fsencode(self.root).rstrip(b"/") + b"/"
        for file in self.files:
            path = os.fsencode(file)
            location = path[len(root) :] if path.startswith(root) else path
            prefix = location if path.startswith(root) else os.path.basename(path)
            status = os.stat(file)
            name = file.name.partition("-")[0]
            by_name = name if self._splits.get(name) else None
            place = location + b"\0" + self.column.encode()
            for row, values in enumerate(self._values(file)):
                label, split = self._label(file, row, "label", values), self._label(file, row, "split", values)
                given = None if self.columns.id is None else values[self.columns.id]
                if self.columns.id is not None and given in (None, ""):
                    raise UsageError(f"{shown(file)}: row {row + 1} has no id; fill it in or drop the row")
                key = prefix + b"/%d" % row if given is None else to_bytes(str(given))
                written = values[self.column] if isinstance(values[self.column], dict) else {}
                metadata = (*(scalar(values[each]) for each in self._metadata), written.get("path"))
                yield Row(key, status.st_size, status.st_mtime_ns, row, place, label, split or by_name, metadata)

    def _label(self, file: Path, row: int, what: str, values: dict[str, Any]) -> str | None:
        column = self.columns.label if what == "label" else self.columns.split
        try:
            return None if column is None else label_text(values[column])
        except NoLabel as error:
            raise UsageError(no_label_message(file, f"row {row + 1}", what, error)) from None

    def _values(self, file: Path) -> Iterator[dict[str, Any]]:
        """Yield the values of each row as a dict by column name, without the bytes of the pictures."""
        import pyarrow as pa
        from pyarrow import parquet

        with _readable(file), parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            wanted = [
                c for c in (self.columns.id, self.columns.label, self.columns.split, *self._metadata) if c is not None
            ]
            missing = [column for column in (self.column, *wanted) if column not in schema.names]
            if missing:
                raise UsageError(
                    f"{shown(file)}: has no column {shown(missing[0])!r}, which {shown(self.files[0])} has"
                )
            kind = schema.field(self.column).type
            path = f"{self.column}.path" if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else None
            names = class_names(schema)
            if not wanted and path is None:
                yield from ({self.column: None} for _ in range(opened.metadata.num_rows))
                return
            for batch in opened.iter_batches(columns=[*wanted, *([path] if path else [])]):
                for values in batch.to_pylist():
                    for column in (self.columns.label, self.columns.split):
                        if column in names:
                            values[column] = named(values[column], names[column])
                    yield {self.column: None, **values}


def is_parquet_name(name: bytes) -> bool:
    """Return whether a file name has the extension of Parquet files, and is not hidden."""
    return not name.startswith(b".") and name.lower().endswith(SUFFIXES)


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _bytes_field(kind: Any) -> bool:
    return any(kind.field(at).name == "bytes" and _is_bytes(kind.field(at).type) for at in range(kind.num_fields))


def _first(path: Path, column: str) -> bool:
    """Return whether the first value in a column of bytes looks like a picture, not like a path.

    A value cannot be a path if it is too long or contains a NUL byte.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as opened:
        for batch in opened.iter_batches(batch_size=_ROWS, columns=[column]):
            for value in batch.column(0):
                if value.is_valid:
                    data = value.as_py()
                    return len(data) > _LONGEST_PATH or b"\0" in data
    return False


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = shown(str(error).partition("\n")[0])
        raise FeatstoreError(f"{shown(path)}: is no Parquet file that can be read ({reason})") from None
