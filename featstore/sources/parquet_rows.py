"""Read single pictures from a column of a Parquet file, from several threads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

from featstore.sources.base import Picture, ReadFailure
from featstore.text import shown, to_text

_ROWS: Final = 8
"""Number of rows of a Parquet file that are read at once."""
_KEPT: Final = 64
"""Number of decoded rows to keep: more than there are reading threads, which request rows slightly out of order."""
_KEPT_BYTES: Final = 256 << 20
_READERS: Final = 8
"""Number of Parquet files that stay open for further reads."""


class _Reader:
    """Read pictures from one column of a Parquet file in row order.

    To read an earlier row, the reader starts again at the first row of the row group.
    """

    def __init__(self, path: bytes, column: str) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self._file = parquet.ParquetFile(os.fsdecode(path), pre_buffer=False, buffer_size=1 << 20)
        self._struct = pa.types.is_struct(self._file.schema_arrow.field(column).type)
        self._column = f"{column}.bytes" if self._struct else column
        self._starts = [0]
        for group in range(self._file.metadata.num_row_groups):
            self._starts.append(self._starts[-1] + self._file.metadata.row_group(group).num_rows)
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, bytes | None] = OrderedDict()
        self._bytes = 0
        self._group, self._next = -1, 0
        self._batches: Iterator[Any] = iter(())

    def read(self, row: int) -> bytes | None:
        """Return the bytes of the picture in ``row``, None for a null value. Raises IndexError after the last row."""
        with self._lock:
            if not 0 <= row < self._starts[-1]:
                raise IndexError(row)
            if row not in self._kept:
                self._seek(row)
            return self._kept[row]

    def _seek(self, row: int) -> None:
        group = next(at for at, end in enumerate(self._starts[1:]) if row < end)
        if group != self._group or row < self._next:
            self._group, self._next = group, self._starts[group]
            self._batches = self._file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[self._column])
        while self._next <= row:
            values = next(self._batches).column(0).to_pylist()
            for value in values:
                data = value.get("bytes") if isinstance(value, dict) else value
                self._kept[self._next] = data
                self._bytes += len(data or b"")
                self._next += 1
            while len(self._kept) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._kept) > _ROWS):
                self._bytes -= len(self._kept.popitem(last=False)[1] or b"")


_readers: OrderedDict[tuple[Any, ...], _Reader] = OrderedDict()
_opening = threading.Lock()


def read_row(path: bytes, column: bytes, row: int, status: os.stat_result, *, limit: int) -> Picture:
    """Read the picture in ``row`` of ``column`` of the Parquet file ``path``. Raises ReadFailure if that is impossible."""
    import pyarrow

    # The process id is part of the cache key: after a fork, parent and child share the position of an open file.
    name = (os.getpid(), path, column, status.st_size, status.st_mtime_ns)
    try:
        with _opening:
            reader = _readers.pop(name, None) or _Reader(path, to_text(column))
            _readers[name] = reader
            while len(_readers) > _READERS:
                _readers.popitem(last=False)
        data = reader.read(row)
    except (pyarrow.ArrowException, IndexError, KeyError, StopIteration) as error:
        reason = shown(str(error).partition("\n")[0])
        raise ReadFailure("io-error", f"{shown(path)}: row {row + 1:,} cannot be read ({reason})") from None
    if data is None:
        raise ReadFailure("missing", f"{shown(path)}: row {row + 1:,} holds no picture, at most its path")
    if not data:
        raise ReadFailure("empty", f"{shown(path)}: row {row + 1:,} has no bytes")
    if len(data) > limit:
        raise ReadFailure(
            "too-large", f"{shown(path)}: row {row + 1:,} has {len(data):,} bytes, where at most {limit:,} are read"
        )
    return Picture(data, status.st_size, status.st_mtime_ns)
