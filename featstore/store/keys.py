"""Lookup of byte-string keys by 128-bit digest."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.files.byte_columns import Arrays, column


def digests(keys: Iterable[bytes], views: Iterable[int] | None = None) -> NDArray[np.uint64]:
    """Return the digests (n, 2) uint64: BLAKE2b-128 of each key, salted with the view number of the picture.

    View 0 is the picture itself; other numbers are reserved for augmented views.

    Digests are compared instead of keys: a collision of a 128-bit cryptographic hash is not expected at any size, and
    cannot be constructed in practice.
    """
    begun: dict[int, Any] = {}
    made: list[bytes] = []
    for key, view in zip(keys, itertools.repeat(0) if views is None else views, strict=views is not None):
        start = begun.get(view)
        if start is None:
            start = begun[view] = hashlib.blake2b(digest_size=16, salt=int(view).to_bytes(16, "little"))
        # Copying a hash object takes half the time of making a new one with parameters.
        digest = start.copy()
        digest.update(key)
        made.append(digest.digest())
    joined = b"".join(made)
    return np.frombuffer(joined, "<u8").reshape(-1, 2)


class KeyIndex:
    """Find the row of a key by the 128-bit digest of the key, with binary search.

    ``hi`` (n,) uint64: high halves, sorted. ``lo`` (n,) uint64: low halves. ``row`` (n,) uint32: row of each digest.
    """

    DTYPES: Final = {"lookup/hi": np.uint64, "lookup/lo": np.uint64, "lookup/row": np.uint32}
    """Name and type of each array (n,) that stores a lookup in a file."""

    def __init__(self, hi: NDArray[np.uint64], lo: NDArray[np.uint64], row: NDArray[np.uint32]) -> None:
        if not len(hi) == len(lo) == len(row):
            raise DamagedError("a key lookup's arrays differ in length")
        self.hi, self.lo, self.row = hi, lo, row

    @classmethod
    def build(cls, digest: NDArray[np.uint64]) -> KeyIndex:
        """Build the lookup for ``digest`` (n, 2), the digest of each row's key."""
        order = np.lexsort((digest[:, 1], digest[:, 0]))
        return cls(digest[order, 0], digest[order, 1], order.astype(np.uint32))

    @classmethod
    def read(cls, arrays: Any) -> KeyIndex:
        """Read a lookup of keys from the arrays of a file."""
        return cls(
            column(arrays, "lookup/hi", "<u8"), column(arrays, "lookup/lo", "<u8"), column(arrays, "lookup/row", "<u4")
        )

    def arrays(self) -> Arrays:
        """Return the arrays that store the lookup."""
        return {"lookup/hi": self.hi, "lookup/lo": self.lo, "lookup/row": self.row}

    def doubled(self) -> tuple[int, int] | None:
        """Return two rows with equal digests; None if all digests differ."""
        same = np.flatnonzero((self.hi[1:] == self.hi[:-1]) & (self.lo[1:] == self.lo[:-1]))
        return (int(self.row[same[0]]), int(self.row[same[0] + 1])) if same.size else None

    def places(self) -> NDArray[np.uint32]:
        """Return the rows in ascending order of their digests; raise DamagedError if a row is out of range."""
        if len(self.row) and int(self.row.max()) >= len(self.row):
            raise DamagedError("a key lookup leads beyond its rows")
        return self.row

    def digest(self) -> NDArray[np.uint64]:
        """Return the digests (n, 2) of the keys, in the order of the rows."""
        value = np.zeros((len(self.hi), 2), np.uint64)
        rows = self.places()
        value[rows, 0], value[rows, 1] = self.hi, self.lo
        return value

    def find(self, digest: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each digest in ``digest`` (m, 2) as (m,) int64; -1 for an unknown digest."""
        found = np.full(len(digest), -1, np.int64)
        if not len(self.hi) or not len(digest):
            return found
        place = np.searchsorted(self.hi, digest[:, 0])
        active = np.flatnonzero(place < len(self.hi))
        # Several rows can have the same high half ``hi`` of the digest: compare them one after the other. Nearly always
        # there is only one.
        while (active := active[self.hi[place[active]] == digest[active, 0]]).size:
            hit = self.lo[place[active]] == digest[active, 1]
            found[active[hit]] = self.row[place[active[hit]]]
            active = active[~hit]
            place[active] += 1
            active = active[place[active] < len(self.hi)]
        if found.max() >= len(self.hi):
            raise DamagedError("a key lookup leads beyond its rows")
        return found
