"""Vectors, keys and labels from files that other programs made: NumPy, Parquet, HDF5, flat FAISS indexes.

``open_vectors`` finds the kind of a file by its first bytes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.vectors.base import VectorFile
from featstore.text import natural, shown

__all__ = ["VectorFile", "Vectors", "open_vectors"]

EXPORT: Final = "_featstore.json"
_SUFFIXES: Final = (".npy", ".npz", ".parquet", ".pq", ".h5", ".hdf5", ".faiss", ".index")


class Vectors:
    """The vectors of several files, one after the other. ``dtype``: float16 if all files have float16, else float32."""

    def __init__(self, files: Sequence[VectorFile]) -> None:
        self.files = list(files)
        first = self.files[0]
        for file in self.files:
            if file.shape[1] != first.shape[1]:
                raise UsageError(
                    f"{shown(file.path)}: has vectors of {file.shape[1]:,} numbers, those of {shown(first.path)} have "
                    f"{first.shape[1]:,}; features of different networks never mix"
                )
        self.shape = sum(file.shape[0] for file in self.files), first.shape[1]
        self.is_rounded = any(file.dtype.itemsize > 4 for file in self.files)
        self.dtype = np.dtype("<f2") if all(file.dtype.itemsize == 2 for file in self.files) else np.dtype("<f4")

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all vectors in order, as blocks (b, d) of ``dtype``. Raises UsageError that names the row for NaN or
        infinity.
        """
        for file in self.files:
            row = 0
            for block in file.blocks():
                with np.errstate(over="ignore"):
                    vectors = np.ascontiguousarray(block, self.dtype)
                odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
                if len(odd):
                    raise UsageError(
                        f"{shown(file.path)}: the vector of row {row + int(odd[0]) + 1:,} has NaN, infinity or a number too large "
                        f"for {self.dtype.name}; leave it out"
                    )
                yield vectors
                row += len(vectors)

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns that every file has, by name, each with the values of all files in order."""
        each = [dict(file.columns()) for file in self.files]
        names = [name for name in each[0] if all(name in other for other in each)]
        return {name: [value for columns in each for value in columns[name]] for name in names}


def files_of(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the files of vectors in ``paths``; a folder stands for its files with a usual extension, sorted by name.

    In a folder that featstore exported (it has vectors.npy), only .npy files are taken. Raises UsageError if there is
    no such file.
    """
    found: list[Path] = []
    for given in paths:
        path = Path(given)
        if not path.is_dir():
            found.append(path)
            continue
        names = sorted((name for name in os.listdir(path) if not name.startswith((".", "_"))), key=natural)
        endings = _SUFFIXES if not (path / "vectors.npy").is_file() else (".npy",)
        inside = [path / name for name in names if name.lower().endswith(endings)]
        if not inside:
            raise UsageError(f"{shown(path)}: has no file of vectors ({', '.join(_SUFFIXES)})")
        found += inside
    return found


def open_vectors(paths: Sequence[str | os.PathLike[str]], array: str | None = None) -> Vectors:
    """Open files of vectors. ``array``: name of the array of vectors, if a file has several arrays.

    Raises UsageError for files of other formats or vectors of different dimensions, FeatstoreError for unreadable
    files.
    """
    files = [_open(path, array) for path in files_of(paths)]
    if not files:
        raise UsageError("there is no file of vectors to read; name one")
    return Vectors(files)


def _open(path: Path, array: str | None) -> VectorFile:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{shown(path)}: is no file of vectors")
        with open(path, "rb") as file:
            start = file.read(8)
    except FileNotFoundError:
        raise UsageError(f"{shown(path)}: does not exist") from None
    except OSError as error:
        raise FeatstoreError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    if start.startswith(b"\x93NUMPY"):
        from featstore.sources.vectors.numpy_files import NpyFile

        return NpyFile(path)
    if start.startswith(b"PK\x03\x04"):
        from featstore.sources.vectors.numpy_files import NpzFile

        return NpzFile(path, array)
    if start.startswith(b"PAR1"):
        from featstore.sources.vectors.parquet_file import ParquetFile

        return ParquetFile(path, array)
    if start == b"\x89HDF\r\n\x1a\n":
        from featstore.sources.vectors.hdf5_file import Hdf5File

        return Hdf5File(path, array)
    if start[:2] in (b"Ix", b"Iw", b"IH"):
        from featstore.sources.vectors.flat_index import FlatIndexFile

        return FlatIndexFile(path)
    raise UsageError(f"{shown(path)}: holds no vectors: it is no .npy, .npz, Parquet, HDF5 or FAISS file")
