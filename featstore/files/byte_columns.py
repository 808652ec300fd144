"""Columns of arbitrary byte strings: one blob with offsets, memory-mappable, never truncated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.text import to_bytes

Arrays = dict[str, NDArray[Any]]


def column(arrays: Mapping[str, NDArray[Any]] | Any, name: str, dtype: str, width: int | None = None) -> NDArray[Any]:
    """Return the array ``name``; raise DamagedError unless it has ``dtype`` and the shape (n,) or (n, width)."""
    array: NDArray[Any] = arrays[name]
    if array.dtype.str != dtype or array.shape[1:] != (() if width is None else (width,)):
        shape = "x".join(map(str, array.shape))
        where = getattr(arrays, "path", "a file of arrays")
        raise DamagedError(f"{where}: {name} is {shape} of {array.dtype}, where another array is needed")
    return array


class ByteColumn(Sequence[bytes]):
    """A column of n byte strings in two arrays; item i is blob[offsets[i] : offsets[i + 1]].

    ``blob``: (m,) uint8. ``offsets``: (n + 1,) uint64 or int64; viewed, not copied.
    """

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.uint64] | NDArray[np.int64]) -> None:
        if blob.ndim != 1 or offsets.ndim != 1 or len(offsets) < 1:
            raise DamagedError("a column of byte strings is not made of two one-dimensional arrays")
        if int(offsets[-1]) != len(blob) or int(offsets[0]) != 0:
            raise DamagedError("a column of byte strings does not fit its offsets")
        self.blob, self.offsets = blob, offsets.view(np.uint64)

    @classmethod
    def of(cls, items: Iterable[bytes | str]) -> ByteColumn:
        """Make a byte column of the byte strings or texts ``items``; text is encoded in UTF-8, as in stores."""
        if isinstance(items, ByteColumn):
            return items
        encoded = [item if isinstance(item, bytes) else to_bytes(item) for item in items]
        offsets = np.zeros(len(encoded) + 1, np.uint64)
        np.cumsum(np.fromiter(map(len, encoded), np.uint64, len(encoded)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]] | Any, name: str) -> ByteColumn:
        """Return the byte column that is stored under ``name`` in the arrays ``arrays`` of a file."""
        return cls(column(arrays, f"{name}/bytes", "|u1"), column(arrays, f"{name}/offsets", "<u8"))

    def arrays(self, name: str) -> Arrays:
        """Return the two arrays in which a file stores the byte column under ``name``."""
        return {f"{name}/bytes": self.blob, f"{name}/offsets": self.offsets}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return list(self.take(np.arange(len(self))[index]))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self.blob[int(self.offsets[index]) : int(self.offsets[index + 1])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return self.take(np.arange(len(self)))

    def take(self, rows: NDArray[np.integer[Any]]) -> Iterator[bytes]:
        """Yield the items at ``rows``, in the order of ``rows``, in bounded memory."""
        for start in range(0, len(rows), 65536):
            part = rows[start : start + 65536]
            starts, stops = self.offsets[part].tolist(), self.offsets[part + 1].tolist()
            if not starts:
                continue
            if starts[1:] == stops[:-1]:
                # The items are adjacent in the blob: copy them all at once.
                base, data = starts[0], self.blob[starts[0] : stops[-1]].tobytes()
                yield from (data[a - base : b - base] for a, b in zip(starts, stops, strict=True))
            else:
                yield from (self.blob[a:b].tobytes() for a, b in zip(starts, stops, strict=True))

    def check(self, rows: int, where: str) -> None:
        """Raise DamagedError unless this column has ``rows`` items, and offsets that never decrease.

        ``where``: text at the start of the error message, such as the file name.
        """
        if self.offsets.shape != (rows + 1,) or self.blob.ndim != 1:
            raise DamagedError(f"{where}: the keys do not fit its {rows:,} rows")
        if bool((self.offsets[1:] < self.offsets[:-1]).any()):
            raise DamagedError(f"{where}: the offsets of the keys are damaged")

    def select(self, rows: NDArray[np.int64]) -> ByteColumn:
        """Return the items at ``rows``, in that order, as a new column."""
        starts = self.offsets[:-1].astype(np.int64)[rows]
        lengths = (self.offsets[1:] - self.offsets[:-1]).astype(np.int64)[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        sources = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return ByteColumn(self.blob[sources], offsets.astype(np.uint64))

    def then(self, other: ByteColumn) -> ByteColumn:
        """Return this column followed by ``other``."""
        return ByteColumn(
            np.concatenate([self.blob, other.blob]),
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
        )
