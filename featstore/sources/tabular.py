"""Read CSV, TSV and Parquet as a stream of records, without interpreting the columns."""

from __future__ import annotations

import csv
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

from featstore.errors import FeatstoreError, UsageError
from featstore.processes import sandbox
from featstore.sources.base import Scalar
from featstore.sources.class_names import class_names, named
from featstore.text import shown

_LINE_LIMIT: Final = 16 << 20
_FIELD_LIMIT: Final = csv.field_size_limit()
"""Limits in bytes: _LINE_LIMIT of a line in a CSV file or a row in a Parquet file, _FIELD_LIMIT of one text in them."""
_PARQUET_ROWS: Final = 8192
_SLICE_BYTES: Final = 32 << 20
"""Bytes of Parquet rows to convert to Python values at once."""
_PARQUET_MEMORY: Final = 1 << 30
_PARQUET_SECONDS: Final = 60.0
_PARQUET_BYTES_A_SECOND: Final = 20e6
_EXPANSION: Final = 1000
_EXPANDED_BYTES: Final = 256 << 20
"""A Parquet file may unpack to at most _EXPANDED_BYTES plus _EXPANSION times its file size."""
_ROW_BYTES: Final = 64
_LISTED: Final = 20
_TAB_SUFFIXES: Final = (".tsv", ".tab")


class Table(Protocol):
    """A table on disk: its ``columns``, and its records, which can be read repeatedly.

    ``binary``: columns of bytes, which cannot be metadata.
    """

    path: Path
    columns: list[str]
    binary: frozenset[str]

    def records(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield (place, values): the place such as "line 7" or "row 7", for messages, and one value per column.

        Raises UsageError that names the place for a malformed record.
        """
        ...


def open_table(path: Path) -> Table:
    """Open a table: Parquet if the file begins as Parquet files do, otherwise text with tabs (.tsv, .tab) or commas.

    Raises UsageError if the table has no header or duplicate column names, or the file is not a table.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "no regular file, which a table must be, to be read twice"
            raise UsageError(f"{shown(path)}: is {what}; name a table (CSV, TSV or Parquet)")
        with open(path, "rb") as file:
            magic = file.read(4)
        table: Table = ParquetTable(path) if magic == b"PAR1" else CsvTable(path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    except OSError as error:
        raise FeatstoreError(f"{shown(path)}: cannot be read ({error.strerror or error})") from None
    doubled = sorted(name for name, count in Counter(table.columns).items() if count > 1)
    if doubled:
        raise UsageError(f"{shown(path)}: has more than one column {shown(doubled[0])!r}; rename one of them")
    return table


class CsvTable:
    """RFC 4180 text in UTF-8 with a header line; every value is text, and a byte order mark is skipped.

    Invalid UTF-8 becomes surrogates, so that file names keep their bytes. Blank lines are skipped. A column without a
    name, as pandas writes its index, is called ``unnamed_<position>``. If every column name except the first begins
    with a blank ("path, label"), blanks after commas are removed from the values.
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
        self._require_separator(header[1])
        self.columns = [name.strip() or f"unnamed_{position}" for position, name in enumerate(header[1])]

    def _require_separator(self, header: list[str]) -> None:
        """Raise UsageError if the header is a single field that contains another separator, such as ";" or a tab."""
        other = next((each for each in ";\t,|" if each in header[0]), None) if len(header) == 1 else None
        if other is None:
            return
        names = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
        raise UsageError(
            f"{shown(self.path)}: its columns are separated by {names[other]}, where {names[self._delimiter]} are expected; "
            "save it as .csv with commas, or as .tsv with tabs"
        )

    def records(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield the values of each line as texts; see Table.records."""
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


def names_of_columns(table: Table) -> str:
    """Return the names of a table's columns for a message; only the first ones if there are very many."""
    more = len(table.columns) - _LISTED
    names = ", ".join(shown(name) for name in table.columns[:_LISTED])
    return f"{names}, ... ({more:,} more)" if more > 0 else names


class ParquetTable:
    """A Parquet file.

    Integers, floats, booleans and text keep their types; dates and times become ISO 8601 text, other values JSON text
    (see scalar). Class numbers become class names if Hugging Face's datasets stored names in the file. A small Parquet
    file can unpack to any size. So the file is first read in a child process with limits on memory and time, and the
    sizes of a text, a row and the whole table are limited.
    """

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.path = path
        size = os.stat(path).st_size
        seconds = _PARQUET_SECONDS + size / _PARQUET_BYTES_A_SECOND
        arguments = {"path": os.fspath(path)}
        with self._errors():
            sandbox.call("featstore.sources.tabular:probe", arguments, seconds=seconds, memory=_PARQUET_MEMORY)
        with self._errors(), parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
        self.columns = [str(name) for name in schema.names]
        self._class_names = class_names(schema)
        self.binary = frozenset(field.name for field in schema if _holds_binary(field.type))

    def records(self) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield each row's values; see Table.records."""
        number = 0
        with self._errors():
            for part in parquet_parts(self.path):
                for values in zip(*map(self._read, self.columns, part.columns), strict=True):
                    number += 1
                    yield f"row {number}", values

    def _read(self, name: str, column: Any) -> list[Any]:
        values, names = _values(column), self._class_names.get(name)
        return values if names is None else [named(value, names) for value in values]

    def _errors(self) -> ParquetErrors:
        return ParquetErrors(self.path)


def probe(path: str) -> None:
    """Read a Parquet file to its end. Runs in the child process."""
    import pyarrow

    # The other memory pools of pyarrow reserve more address space than the child process is allowed to use.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    with ParquetErrors(Path(path)):
        for _ in parquet_parts(Path(path)):
            pass


def parquet_parts(path: Path) -> Iterator[Any]:
    """Yield a Parquet file as record batches of bounded size, with dictionary-encoded texts.

    Raises UsageError and pyarrow's errors.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
    most = _EXPANDED_BYTES + _EXPANSION * os.stat(path).st_size
    rows = 0
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, use_threads=False):
            most -= _size(batch, path)
            if most < 0:
                raise UsageError(
                    f"{shown(path)}: unpacks to more than {_EXPANSION:,} times its size; it is damaged or made to do harm"
                )
            todo = [batch]
            while todo:
                part = todo.pop()
                size, half = _size(part, path), part.num_rows // 2
                if part.num_rows == 1 and size > _LINE_LIMIT:
                    raise UsageError(
                        f"{shown(path)}: row {rows + 1} has {size:,} bytes, where {_LINE_LIMIT:,} fit; is this a table?"
                    )
                if part.num_rows > 1 and size > _SLICE_BYTES:
                    todo += [part.slice(half), part.slice(0, half)]
                    continue
                rows += part.num_rows
                yield part


def _size(batch: Any, path: Path) -> int:
    """Return the size of a record batch in bytes, as if without dictionary encoding.

    Raises UsageError for a text that is too long.
    """
    import numpy as np
    import pyarrow.compute as compute
    from pyarrow import types

    size: int = _ROW_BYTES * batch.num_rows
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not types.is_dictionary(column.type):
            size += int(column.nbytes)
            continue
        lengths = compute.fill_null(compute.binary_length(column.dictionary), 0).to_numpy(zero_copy_only=False)
        if len(lengths) and int(lengths.max()) > _FIELD_LIMIT:
            raise UsageError(
                f"{shown(path)}: the column {shown(name)!r} has a text of {int(lengths.max()):,} bytes, where "
                f"{_FIELD_LIMIT:,} fit; drop it from the table"
            )
        indices = column.indices.drop_null().to_numpy(zero_copy_only=False)
        size += int(lengths[indices].sum(dtype=np.int64)) if len(lengths) else 0
    return size


def _values(column: Any) -> list[Any]:
    """Return the values of a column. Equal texts are the same Python object, to save memory."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return list(column.to_pylist())
    words = column.dictionary.to_pylist()
    return [None if place is None else words[place] for place in column.indices.to_pylist()]


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind)
    )


class ParquetErrors:
    """Convert errors of pyarrow, or of the child process that reads a file first, to a one-line message.

    ``memory``: memory limit of the child process in bytes.
    """

    def __init__(self, path: Path, memory: int = _PARQUET_MEMORY) -> None:
        self._path, self._memory = path, memory

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import pyarrow

        if isinstance(error, sandbox.Died):
            raise FeatstoreError(
                f"{shown(self._path)}: reading it ends a process ({error}): it is damaged or made to do harm, or its row groups "
                "are too large; write it anew with smaller ones"
            ) from None
        if isinstance(error, MemoryError):
            raise UsageError(
                f"{shown(self._path)}: takes more than {self._memory >> 30} GiB of memory to read; it is damaged or made to "
                "do harm, or its row groups are too large; write it anew with smaller ones"
            ) from None
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
    """Return a table's value as metadata: scalars unchanged, dates and times as ISO 8601, other values as JSON text."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=_json_text, ensure_ascii=False, sort_keys=True)
    return str(value)


def _json_text(value: Any) -> str:
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
