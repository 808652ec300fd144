"""Vectors in NumPy's files: one array (.npy), or several in a zip archive (.npz). Nothing is unpickled."""

from __future__ import annotations

import contextlib
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.sources.vectors.base import choose, require_vectors, rows_of_block
from featstore.text import printable, shown

_NPY_ERRORS: Final = (ValueError, TypeError, EOFError, OSError, OverflowError, SyntaxError, tokenize.TokenError)
"""Exceptions that NumPy raises for a file that is not an array. NumPy parses the header as a Python literal."""
_ARCHIVE: Final = b"PK\x03\x04"
_TEXT_BYTES: Final = 1 << 30
"""Largest size of an array of texts in bytes. In NumPy every text takes as many bytes as the longest text."""


class NpyFile:
    """A .npy file of vectors, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._array = read_array(path)
        self.shape, self.dtype = require_vectors(path, self._array.shape, self._array.dtype), self._array.dtype

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all vectors in blocks; see VectorFile.blocks."""
        step = rows_of_block(self.shape[1], self.dtype)
        for start in range(0, self.shape[0], step):
            yield np.asarray(self._array[start : start + step])

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return {}: a .npy file has no columns besides the vectors."""
        return {}


def read_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Return the array of a .npy file, memory-mapped. Raises UsageError if the file is not an array."""
    try:
        with open(path, "rb") as file:
            if file.read(len(_ARCHIVE)) == _ARCHIVE:
                raise UsageError(f"{shown(path)}: is an archive of arrays; write one array with numpy.save")
            file.seek(0)
            shape, _, dtype = _header(file)
            if math.prod(shape) * dtype.itemsize > os.fstat(file.fileno()).st_size:
                raise ValueError("it ends before its last number")
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{shown(path)}: there is no such file of vectors") from None
    except _NPY_ERRORS as error:
        raise UsageError(
            f"{shown(path)}: is no array that can be read ({_reason(error)}); write one with numpy.save"
        ) from None
    return array


class NpzFile:
    """An archive of arrays (.npz). The vectors are read block by block, to bound memory."""

    def __init__(self, path: Path, array: str | None) -> None:
        self.path = path
        with self._open() as archive:
            heads: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]] = {}
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        heads[member.removesuffix(".npy")] = _header(file)
        self._heads = heads
        self._name = choose(
            path, list(heads), lambda name: len(heads[name][0]) == 2 and heads[name][2].kind == "f", array
        )
        shape, fortran, self.dtype = heads[self._name]
        self.shape = require_vectors(path, shape, self.dtype, f"its {printable(self._name)!r}")
        if fortran:
            raise UsageError(
                f"{shown(path)}: its {self._name!r} is stored by columns; save numpy.ascontiguousarray of it"
            )

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all vectors in blocks; see VectorFile.blocks."""
        n, d = self.shape
        step = rows_of_block(d, self.dtype)
        with self._open() as archive, archive.open(f"{self._name}.npy") as file:
            _header(file)
            for start in range(0, n, step):
                rows = min(step, n - start)
                data = file.read(rows * d * self.dtype.itemsize)
                if len(data) < rows * d * self.dtype.itemsize:
                    raise UsageError(
                        f"{shown(self.path)}: its {printable(self._name)!r} ends at row {start:,} or soon after"
                    )
                yield np.frombuffer(data, self.dtype).reshape(rows, d)

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return the other arrays of n texts or numbers as columns, by name."""
        found: dict[str, Sequence[Any]] = {}
        with self._open() as archive:
            for name, (shape, _, dtype) in self._heads.items():
                fits = shape == (self.shape[0],) and dtype.kind in "USiufb" and shape[0] * dtype.itemsize <= _TEXT_BYTES
                if fits and name != self._name:
                    with archive.open(f"{name}.npy") as file:
                        found[name] = npy.read_array(file, allow_pickle=False).tolist()
        return found

    @contextlib.contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (*_NPY_ERRORS, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as error:
            raise UsageError(f"{shown(self.path)}: is no archive that can be read ({_reason(error)})") from None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    # NumPy accepts True as a size in the header, and then fails while reading the array.
    if any(isinstance(size, bool) or size < 0 for size in shape):
        raise ValueError(f"its shape is {shape}")
    return tuple(shape), bool(fortran), dtype


def _reason(error: BaseException) -> str:
    return printable(" ".join(str(error).split()))[:100]
