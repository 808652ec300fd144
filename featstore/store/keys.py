"""Keys of any bytes, as columns: one blob with offsets, and a lookup by 128-bit digest."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError

Arrays = dict[str, NDArray[Any]]


def column(arrays: Mapping[str, NDArray[Any]] | Any, name: str, dtype: str, width: int | None = None) -> NDArray[Any]:
    """Take the array ``name``, (n,) or (n, width), out of a file's arrays; raise DamagedError where it is of another kind."""
    array: NDArray[Any] = arrays[name]
    if array.dtype.str != dtype or array.shape[1:] != (() if width is None else (width,)):
        shape = "x".join(map(str, array.shape))
        where = getattr(arrays, "path", "a file of arrays")
        raise DamagedError(f"{where}: {name} is {shape} of {array.dtype}, where another array is needed")
    return array


class ByteColumn(Sequence[bytes]):
    """n byte strings: ``blob`` (m,) uint8 and ``offsets`` (n + 1,) uint64, item i at offsets[i]:offsets[i + 1]."""

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.uint64]) -> None:
        if len(offsets) < 1 or int(offsets[-1]) != len(blob) or int(offsets[0]) != 0:
            raise DamagedError("a column of byte strings does not fit its offsets")
        self.blob, self.offsets = blob, offsets

    @classmethod
    def of(cls, items: Iterable[bytes]) -> ByteColumn:
        """Make a column of ``items``."""
        items = list(items)
        offsets = np.zeros(len(items) + 1, np.uint64)
        np.cumsum(np.fromiter(map(len, items), np.uint64, len(items)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(items), np.uint8), offsets)

    @classmethod
    def read(cls, arrays: Mapping[str, NDArray[Any]] | Any, name: str) -> ByteColumn:
        """Take the column ``name`` out of a file's arrays."""
        return cls(column(arrays, f"{name}/bytes", "|u1"), column(arrays, f"{name}/offsets", "<u8"))

    def arrays(self, name: str) -> Arrays:
        """Return the arrays that store the column under ``name``."""
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
        """Yield the items of ``rows`` in their order, in bounded memory."""
        for start in range(0, len(rows), 65536):
            part = rows[start : start + 65536]
            starts, stops = self.offsets[part].tolist(), self.offsets[part + 1].tolist()
            if not starts:
                continue
            if starts[1:] == stops[:-1]:
                # Each item begins where the one before it ends: one copy for all.
                base, data = starts[0], self.blob[starts[0] : stops[-1]].tobytes()
                yield from (data[a - base : b - base] for a, b in zip(starts, stops, strict=True))
            else:
                yield from (self.blob[a:b].tobytes() for a, b in zip(starts, stops, strict=True))


def digests(keys: Iterable[bytes], views: Iterable[int] | None = None) -> NDArray[np.uint64]:
    """Return (n, 2) uint64: BLAKE2b-128 of each key, salted with its view (0 leaves the salt zero).

    Digests are compared in place of keys: with 128 bits of a cryptographic hash, two keys of one digest are
    not to be expected at any size, nor to be made on purpose.
    """
    begun: dict[int, Any] = {}
    made: list[bytes] = []
    for key, view in zip(keys, itertools.repeat(0) if views is None else views, strict=views is not None):
        start = begun.get(view)
        if start is None:
            start = begun[view] = hashlib.blake2b(digest_size=16, salt=int(view).to_bytes(16, "little"))
        # A copy costs half of a new one with its parameters.
        digest = start.copy()
        digest.update(key)
        made.append(digest.digest())
    joined = b"".join(made)
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


class KeyIndex:
    """A lookup of digests: sorted ``hi`` (n,) uint64, its ``lo`` (n,) uint64 and ``row`` (n,) uint32."""

    DTYPES: Final = {"lookup/hi": np.uint64, "lookup/lo": np.uint64, "lookup/row": np.uint32}
    """The arrays that store a lookup, (n,) each."""

    def __init__(self, hi: NDArray[np.uint64], lo: NDArray[np.uint64], row: NDArray[np.uint32]) -> None:
        if not len(hi) == len(lo) == len(row):
            raise DamagedError("a key lookup's arrays differ in length")
        self.hi, self.lo, self.row = hi, lo, row

    @classmethod
    def build(cls, digest: NDArray[np.uint64]) -> KeyIndex:
        """Index ``digest`` (n, 2)."""
        order = np.lexsort((digest[:, 1], digest[:, 0]))
        return cls(digest[order, 0], digest[order, 1], order.astype(np.uint32))

    @classmethod
    def read(cls, arrays: Any) -> KeyIndex:
        """Take the lookup out of a file's arrays."""
        return cls(
            column(arrays, "lookup/hi", "<u8"), column(arrays, "lookup/lo", "<u8"), column(arrays, "lookup/row", "<u4")
        )

    def arrays(self) -> Arrays:
        """Return the arrays that store the lookup."""
        return {"lookup/hi": self.hi, "lookup/lo": self.lo, "lookup/row": self.row}

    def doubled(self) -> tuple[int, int] | None:
        """Return two rows of one digest, or None."""
        same = np.flatnonzero((self.hi[1:] == self.hi[:-1]) & (self.lo[1:] == self.lo[:-1]))
        return (int(self.row[same[0]]), int(self.row[same[0] + 1])) if same.size else None

    def places(self) -> NDArray[np.uint32]:
        """Return the rows in the order of the digests; raise DamagedError where one lies beyond the others."""
        if len(self.row) and int(self.row.max()) >= len(self.row):
            raise DamagedError("a key lookup leads beyond its rows")
        return self.row

    def digest(self) -> NDArray[np.uint64]:
        """Return the digests (n, 2) in the order of the rows."""
        value = np.zeros((len(self.hi), 2), np.uint64)
        rows = self.places()
        value[rows, 0], value[rows, 1] = self.hi, self.lo
        return value

    def find(self, digest: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return (m,) int64: for each of the digests (m, 2) its row, or -1."""
        found = np.full(len(digest), -1, np.int64)
        if not len(self.hi) or not len(digest):
            return found
        place = np.searchsorted(self.hi, digest[:, 0])
        active = np.flatnonzero(place < len(self.hi))
        # Runs of one hi are almost always of length 1; the loop ends with the longest.
        while (active := active[self.hi[place[active]] == digest[active, 0]]).size:
            hit = self.lo[place[active]] == digest[active, 1]
            found[active[hit]] = self.row[place[active[hit]]]
            active = active[~hit]
            place[active] += 1
            active = active[place[active] < len(self.hi)]
        if found.max() >= len(self.hi):
            raise DamagedError("a key lookup leads beyond its rows")
        return found
