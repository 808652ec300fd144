"""Read CSV, TSV and Parquet as a stream of records, whatever the columns mean."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.base import Scalar, shown

_LINE_LIMIT: Final = 16 << 20
_PARQUET_ROWS: Final = 8192
_TAB_SUFFIXES: Final = (".tsv", ".tab")


class Table(Protocol):
    """A table on disk: ``columns`` and a stream of records that can be read again and again.

    ``binary``: the columns that hold bytes, which metadata cannot.
    """

    path: Path
    columns: list[str]
    binary: frozenset[str]

    def records(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield (place, values): "line 7" or "row 7" for messages, and a value for each column.

        Raises UsageError where a record is not well formed, naming its place.
        """
        ...


def open_table(path: Path) -> Table:
    """Open a table: Parquet by its first bytes, else text with tabs (.tsv, .tab) or commas between fields.

    Raises UsageError where it has no header, doubled column names or is no table.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{shown(path)}: is no file; a table must be one, to be read again")
        with open(path, "rb") as file:
            magic = file.read(4)
        table: Table = ParquetTable(path) if magic == b"PAR1" else CsvTable(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    except OSError as error:
        raise FeatstoreError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
    doubled = sorted({name for name in table.columns if table.columns.count(name) > 1})
    if doubled:
        raise UsageError(f"{shown(path)}: has more than one column {shown(doubled[0])!r}; rename one of them")
    return table


class CsvTable:
    """RFC 4180 text in UTF-8 (a byte order mark is skipped) with a header line; every value is text.

    Bytes that are no UTF-8 survive as surrogates, so that file names keep theirs. Blank lines are skipped. A
    column without a name, as pandas writes its index, is called ``unnamed_<position>``. Where every name but the
    first follows a blank ("path, label"), the blanks after commas are no part of the values.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.binary: frozenset[str] = frozenset()
        self._delimiter = "\t" if path.suffix.lower() in _TAB_SUFFIXES else ","
        self._spaced = False
        header = next(self._lines(), None)
        if header is None:
            raise UsageError(f"{shown(path)}: is empty; the first line must name the columns")
        self._spaced = len(header[1]) > 1 and all(name.startswith(" ") for name in header[1][1:])
        if self._spaced:
            header = next(self._lines())
        self.columns = [name.strip() or f"unnamed_{position}" for position, name in enumerate(header[1])]

    def records(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield each line's values as text; see Table.records."""
        lines = self._lines()
        next(lines, None)
        for number, values in lines:
            if len(values) != len(self.columns):
                fields = f"{len(values)} fields where the header names {len(self.columns)}"
                raise UsageError(f"{shown(self.path)}: line {number} has {fields}; mend the line (are quotes missing?)")
            yield f"line {number}", values

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        with open(self.path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            spaced = self._spaced and self._delimiter == ","
            reader = csv.reader(self._checked(file), delimiter=self._delimiter, strict=True, skipinitialspace=spaced)
            while True:
                try:
                    values = next(reader, None)
                except csv.Error as error:
                    place = f"line {max(reader.line_num, 1)}"
                    raise UsageError(f"{shown(self.path)}: {place} is no well-formed CSV ({error})") from None
                if values is None:
                    return
                if values:
                    yield reader.line_num, values

    def _checked(self, file: TextIO) -> Iterator[str]:
        number = 0
        while line := file.readline(_LINE_LIMIT):
            number += 1
            if "\0" in line:
                raise UsageError(f"{shown(self.path)}: line {number} holds a NUL byte; save the table as UTF-8 text")
            if len(line) == _LINE_LIMIT:
                raise UsageError(f"{shown(self.path)}: line {number} is longer than {_LINE_LIMIT:,}; is this a table?")
            yield line


class ParquetTable:
    """A Parquet file. Integers, floats, booleans and text stay what they are; dates and times become ISO 8601
    text, anything else JSON text (see scalar)."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.path = path
        with self._errors(), parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
        self.columns = [str(name) for name in schema.names]
        self.binary = frozenset(field.name for field in schema if _holds_binary(field.type))

    def records(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield each row's values; see Table.records."""
        from pyarrow import parquet

        number = 0
        with self._errors(), parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"row {number}", values

    def _errors(self) -> _Errors:
        return _Errors(self.path)


class _Errors:
    """Turn what pyarrow raises on a damaged or foreign file into one line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | OSError | UnicodeDecodeError):
            reason = shown(str(error).partition("\n")[0])
            raise FeatstoreError(f"{shown(self._path)}: is no Parquet file that can be read ({reason})") from None


def _holds_binary(kind: Any) -> bool:
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if types.is_dictionary(kind):
        return _holds_binary(kind.value_type)
    return any(_holds_binary(kind.field(index).type) for index in range(kind.num_fields))


def scalar(value: Any) -> Scalar:
    """Return a table's value as metadata: scalars as they are, dates and times as ISO 8601, else JSON text."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=_json_text, ensure_ascii=False, sort_keys=True)
    return str(value)


def _json_text(value: Any) -> str:
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
