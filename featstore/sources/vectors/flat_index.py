"""Vectors in a flat index of FAISS: the file contains them uncompressed, so they are read without FAISS.

The layout is that of FAISS 1.5 to 1.15 (faiss/impl/index_write.cpp): a four-letter code, dimension, number of rows,
whether the index is trained, metric; then the number of floats, and the floats. An index with ids (IndexIDMap) contains
a flat index, followed by the ids.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.sources.vectors.base import require_vectors, rows_of_block
from featstore.text import shown

FLAT: Final = (b"IxFI", b"IxF2", b"IxFl")
IDS: Final = (b"IxMp", b"IxM2")
_HEADER: Final = struct.Struct("<4siqqqBi")
_FLOAT = np.dtype("<f4")


class FlatIndexFile:
    """A flat FAISS index: float32 vectors, and a column ``id`` if the index has ids."""

    dtype = _FLOAT

    def __init__(self, path: Path) -> None:
        self.path = path
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            kind, d, n, metric = self._head(file.read(_HEADER.size))
            outer = n if kind in IDS else None
            if outer is not None:
                _skip_metric(file, metric)
                kind, d, n, metric = self._head(file.read(_HEADER.size))
            if kind not in FLAT:
                raise UsageError(
                    f"{shown(path)}: is an index of the kind {kind!r}, whose vectors are packed; only flat indexes hold them as they were"
                )
            _skip_metric(file, metric)
            (floats,) = self._unpack("<Q", file.read(8))
            self._start = file.tell()
            end = self._start + 4 * floats
            if n < 0 or floats != n * d or end > size or outer not in (None, n):
                raise UsageError(f"{shown(path)}: the sizes in this index do not fit one another; it is damaged")
            self.shape = require_vectors(path, (n, d), _FLOAT)
            self._ids: int | None = None
            if outer is not None:
                file.seek(end)
                (ids,) = self._unpack("<Q", file.read(8))
                self._ids = end + 8
                if ids != n or self._ids + 8 * n > size:
                    raise UsageError(f"{shown(path)}: the sizes in this index do not fit one another; it is damaged")

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all vectors in blocks; see VectorFile.blocks."""
        n, d = self.shape
        if not n:
            return
        vectors = np.memmap(self.path, _FLOAT, "r", self._start, (n, d))
        step = rows_of_block(d, _FLOAT)
        for start in range(0, n, step):
            yield np.asarray(vectors[start : start + step])

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return the columns besides the vectors; see VectorFile.columns."""
        if self._ids is None or not self.shape[0]:
            return {}
        return {"id": np.memmap(self.path, "<i8", "r", self._ids, (self.shape[0],)).tolist()}

    def _head(self, data: bytes) -> tuple[bytes, int, int, int]:
        kind, d, n, _, _, _, metric = self._unpack(_HEADER.format, data)
        return kind, d, n, metric

    def _unpack(self, form: str, data: bytes) -> tuple[Any, ...]:
        if len(data) < struct.calcsize(form):
            raise UsageError(f"{shown(self.path)}: ends in the middle of its index; it is damaged")
        return struct.unpack(form, data)


def _skip_metric(file: Any, metric: int) -> None:
    """Skip the argument of the metric in a FAISS file; inner product and Euclidean distance have no argument."""
    if metric > 1:
        file.seek(4, os.SEEK_CUR)
