"""Vectors in a Parquet file: one column has lists of equal length (of fixed or variable list type)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.processes import sandbox
from featstore.sources.tabular import ParquetErrors, scalar
from featstore.sources.vectors.base import choose, require_vectors, rows_of_block
from featstore.text import printable, shown

_SECONDS: Final = 60.0
_BYTES_A_SECOND: Final = 20e6
_MEMORY: Final = 2 << 30
_LARGEST_GROUP: Final = 4 << 30


class ParquetFile:
    """A Parquet file of vectors.

    The file is read once in a child process with limits first, because a damaged file may crash its reader.
    """

    def __init__(self, path: Path, array: str | None) -> None:
        from pyarrow import parquet

        self.path = path
        size = os.stat(path).st_size
        with ParquetErrors(path, _memory(path)):
            sandbox.call(
                "featstore.sources.vectors.parquet_file:probe",
                {"path": os.fspath(path), "array": array},
                seconds=_SECONDS + size / _BYTES_A_SECOND,
                memory=_memory(path),
            )
            with parquet.ParquetFile(path) as file:
                self._schema, rows = file.schema_arrow, file.metadata.num_rows
            self._name = _vectors_of(path, self._schema, array)
            first = next(_batches(path, self._name, 1), np.zeros((0, 1), np.float32))
        self.dtype = first.dtype
        self.shape = require_vectors(path, (rows, first.shape[1]), self.dtype, f"its column {printable(self._name)!r}")

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all vectors in blocks; see VectorFile.blocks."""
        with ParquetErrors(self.path, _memory(self.path)):
            yield from _batches(self.path, self._name, rows_of_block(self.shape[1], self.dtype))

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return all columns that are not lists or structs, by name; bytes stay bytes."""
        from pyarrow import parquet, types

        names = [field.name for field in self._schema if field.name != self._name and not types.is_nested(field.type)]
        with ParquetErrors(self.path, _memory(self.path)), parquet.ParquetFile(self.path) as file:
            table = file.read(columns=names)
            # Convert within the block of ParquetErrors: if a damaged file has texts that are not UTF-8, to_pylist()
            # raises.
            return {
                name: [value if isinstance(value, bytes) else scalar(value) for value in table[name].to_pylist()]
                for name in names
            }

    def description(self) -> bytes | None:
        """Return the metadata that featstore writes into a Parquet file on export; None in other files."""
        return (self._schema.metadata or {}).get(b"featstore")


def probe(path: str, array: str | None) -> None:
    """Read all vectors of a Parquet file. Runs in the child process."""
    import pyarrow
    from pyarrow import parquet

    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    place = Path(path)
    with ParquetErrors(place, _memory(place)):
        with parquet.ParquetFile(place) as file:
            name = _vectors_of(place, file.schema_arrow, array)
        for _ in _batches(place, name, 4096):
            pass


def _memory(path: Path) -> int:
    """Return the memory limit in bytes for reading the file. It must allow unpacking a whole row group."""
    return _MEMORY + min(2 * os.stat(path).st_size, _LARGEST_GROUP)


def _vectors_of(path: Path, schema: Any, array: str | None) -> str:
    from pyarrow import types

    def fits(name: str) -> bool:
        kind = schema.field(name).type
        lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        return bool(lists and types.is_floating(kind.value_type))

    names = [field.name for field in schema if schema.names.count(field.name) == 1]
    name = choose(path, names, fits, array)
    if not fits(name):
        raise UsageError(f"{shown(path)}: its column {printable(name)!r} holds no lists of floating numbers")
    return name


def _batches(path: Path, name: str, rows: int) -> Iterator[NDArray[Any]]:
    from pyarrow import parquet

    at, width = 0, None
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
            # Select the column by name: for the name "a.b" pyarrow may also return the field b of a column a, and puts
            # it first.
            column = batch.column(name)
            values = column.flatten()
            if column.null_count or values.null_count:
                raise UsageError(f"{shown(path)}: row {at + 1:,} or one soon after it has no vector; drop such rows")
            count, fixed = len(column), getattr(column.type, "list_size", None)
            lengths = np.asarray(column.value_lengths()) if fixed is None else np.full(count, fixed)
            width = int(lengths[0]) if width is None and count else width
            wrong = np.flatnonzero(lengths != width)
            if len(wrong):
                row = at + int(wrong[0]) + 1
                raise UsageError(
                    f"{shown(path)}: the vector of row {row:,} has {int(lengths[wrong[0]]):,} numbers, that of row 1 {width:,}"
                )
            yield values.to_numpy(zero_copy_only=False).reshape(count, width or 0)
            at += count
