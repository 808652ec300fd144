"""Check the structure of a FAISS file without using FAISS; helpers for file names and error messages.

FAISS trusts a file. For example, it opens other files whose names are stored in inverted lists, and may write to them.
So this module reads the structure of a file from the first byte to the last before FAISS reads the file. Every index,
transform and inverted list must have a type that featstore writes, at a place where featstore writes it. Only the few
numbers around the arrays are read. The layout is that of FAISS 1.8 to 1.15 (faiss/impl/index_write.cpp and
faiss/invlists/BlockInvertedLists.cpp).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Final

from featstore.errors import DamagedError

_FLAT: Final = frozenset({b"IxFI", b"IxF2"})
_CODES: Final = frozenset({b"IxSQ"})
_LISTS: Final = frozenset({b"IwPf"})
_GRAPHS: Final = {b"IHNf": _FLAT, b"IHNs": _CODES}
"""Four-letter codes of FAISS's graph indexes; for each, the codes of the inner indexes that may store its vectors."""
_INNER: Final = _FLAT | _GRAPHS.keys() | {b"IxRF"}
"""Four-letter codes, in a FAISS file, of the indexes that featstore writes inside an IndexIDMap."""
_COARSE: Final = _LISTS | _GRAPHS.keys() | {b"IxPT"}
"""Four-letter codes, in a FAISS file, of the indexes that featstore writes as the first stage of a re-ranking index."""
_METRICS: Final = (0, 1)
_MOST_TRANSFORMS: Final = 4


def check_structure(path: Path, rows: int, dimension: int) -> None:
    """Raise DamagedError unless FAISS can safely read this file of ``rows`` vectors of ``dimension`` numbers.

    Errors are: another number of rows or dimensions; an index, transform or inverted lists of a type that featstore
    does not write at that place; an array that is longer than the rest of the file; bytes after the end.
    """
    try:
        with open(path, "rb") as file:
            walk = _Walk(file, os.fstat(file.fileno()).st_size)
            if walk.outer() != (rows, dimension):
                raise _Foreign(f"is not the index of {rows:,} x {dimension} that its side file describes")
    except _Foreign as foreign:
        raise DamagedError(f"{path}: {foreign}; build the index again") from None


class _Foreign(Exception):
    """The structure of the file is invalid; the message says how."""


class _Walk:
    """A pass over the structure of a FAISS file. Each method reads one part; parts are in the order of the file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def outer(self) -> tuple[int, int]:
        """Read past the IndexIDMap in a FAISS file and the index inside it; return rows and dimension.

        The number of rows and the dimension must be equal in all parts.
        """
        self._kind({b"IxMp"}, "the ids")
        rows, dimension = self._header()
        self._index(_INNER, "the index", rows, dimension)
        self._array(8)
        if self._left:
            raise _Foreign("has bytes after the end of its index")
        return rows, dimension

    def _take(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{form}")
        data = self._file.read(size)
        if len(data) < size:
            raise _Foreign("ends in the middle of its index")
        self._left -= size
        return struct.unpack(f"<{form}", data)

    def _array(self, width: int) -> int:
        """Skip an array in a FAISS file: a length, followed by elements of ``width`` bytes each. Return the length."""
        (count,) = self._take("Q")
        if count * width > self._left:
            raise _Foreign("has an array that is longer than the file")
        self._file.seek(count * width, os.SEEK_CUR)
        self._left -= count * width
        return int(count)

    def _kind(self, allowed: Collection[bytes], what: str) -> bytes:
        (kind,) = self._take("4s")
        if kind not in allowed:
            raise _Foreign(f"has as {what} a {kind!r}, which featstore does not write there")
        return bytes(kind)

    def _header(self) -> tuple[int, int]:
        dimension, rows, _, _, trained, metric = self._take("iqqqBi")
        if rows and trained != 1:
            raise _Foreign("has rows in an index that says that it is not trained")
        if metric not in _METRICS:
            raise _Foreign(f"measures by the metric {metric}, which featstore does not use")
        return rows, dimension

    def _index(self, allowed: Collection[bytes], what: str, rows: int, dimension: int) -> None:
        """Read past an index in a FAISS file; raise _Foreign unless its type is known and its shape is (``rows``,
        ``dimension``).
        """
        kind = self._kind(allowed, what)
        found = self._header()
        if found != (rows, dimension):
            raise _Foreign(
                f"has as {what} one of {found[0]:,} x {found[1]:,}, where {rows:,} x {dimension:,} are needed"
            )
        if kind in _FLAT:
            self._array(4)
        elif kind in _CODES:
            # Fields of a scalar quantiser in the file: type, range statistic, its argument, dimension, bytes per code;
            # then the array of ranges and the array of codes.
            self._take("iifQQ")
            self._array(4)
            self._array(1)
        elif kind in _GRAPHS:
            for width in (8, 4, 4, 8, 4):
                self._array(width)
            self._take("iiiii")
            self._index(_GRAPHS[kind], "the storage of its graph", rows, dimension)
        elif kind in _LISTS:
            self._lists(dimension)
        elif kind == b"IxPT":
            self._projected(rows, dimension)
        else:
            self._index(_COARSE, "what it re-ranks", rows, dimension)
            self._index(_CODES | _FLAT, "the codes it re-ranks on", rows, dimension)
            self._take("f")

    def _projected(self, rows: int, dimension: int) -> None:
        (count,) = self._take("i")
        if not 0 < count <= _MOST_TRANSFORMS:
            raise _Foreign(f"has {count:,} projections")
        for _ in range(count):
            self._kind({b"Pcam"}, "a projection")
            # Fields of a PCA in the file: eigenvalue power, epsilon, rotation, bins; then the arrays mean, eigenvalues
            # and components.
            self._take("ff?i")
            for _ in range(3):
                self._array(4)
            # FAISS writes a linear transform as a flag (whether it has a bias), followed by the arrays matrix and bias.
            self._take("?")
            self._array(4)
            self._array(4)
            inner, outer, trained = self._take("iiB")
            if trained != 1:
                raise _Foreign("has a projection that says that it is not trained")
            if inner != dimension:
                raise _Foreign(f"has a projection of {inner} dimensions, where {dimension} are needed")
            dimension = outer
        self._index(_LISTS, "what lies behind its projections", rows, dimension)

    def _lists(self, dimension: int) -> None:
        """Read inverted lists of 4-bit product codes: all of an IndexIVFPQFastScan after its header."""
        lists, _ = self._take("QQ")
        self._index(_FLAT, "the centres of its lists", lists, dimension)
        (kept,) = self._take("b")
        if kept or self._array(8):
            raise _Foreign("has a map of its lists, which featstore does not write")
        # Fields of a product quantiser in the file: whether it encodes residuals, bytes per code, block size, number of
        # sub-quantisers, implementation; then the codebook.
        self._take("?QiQiQ")
        self._take("QQQ")
        self._array(4)
        self._kind({b"ilbl"}, "its inverted lists")
        if self._take("QQQQ")[0] != lists:
            raise _Foreign("does not have as many inverted lists as centres")
        for _ in range(lists):
            self._array(8)
            self._array(1)


def name_for_faiss(path: Path, handle: int) -> str:
    """Return a name that FAISS can open: ``path`` if it is printable text, otherwise /dev/fd/``handle``."""
    name = os.fspath(path)
    return name if name.isprintable() else f"/dev/fd/{handle}"


def reason_of(error: BaseException) -> str:
    """Return FAISS's message on one line, without the C++ location around it."""
    text = " ".join(str(error).split())
    return text.rpartition("Error: ")[2][:200] or type(error).__name__
