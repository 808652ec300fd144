"""Vectors in an HDF5 file: a matrix, or one group per picture with one vector each, as hloc writes them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError, UsageError
from featstore.files import hdf5
from featstore.processes import sandbox
from featstore.sources.vectors.base import choose, require_vectors, rows_of_block
from featstore.text import printable, shown

_SECONDS: Final = 60.0
_BYTES_A_SECOND: Final = 20e6
_MEMORY: Final = 2 << 30


class Hdf5File:
    """An HDF5 file of vectors.

    The file is read once in a child process with limits first, because a damaged file may crash its reader.
    Links to other files are not followed. In hloc's layout the column ``key`` has the names of the pictures.
    """

    def __init__(self, path: Path, array: str | None) -> None:
        self.path = path
        arguments = {"path": os.fspath(path), "array": array}
        seconds = _SECONDS + os.stat(path).st_size / _BYTES_A_SECOND
        try:
            sandbox.call("featstore.sources.vectors.hdf5_file:probe", arguments, seconds=seconds, memory=_MEMORY)
        except sandbox.Died as death:
            raise DamagedError(
                f"{shown(path)}: reading it ends a process ({death}): it is damaged or made to do harm"
            ) from None
        self._open_parts(array)

    def _open_parts(self, array: str | None) -> None:
        with _opened(self.path) as file:
            self._parts = file.datasets()
            self._each = _one_a_picture(self._parts, array)
            if self._each:
                self._name = self._each[0]
                self.dtype = file.array(self._name).dtype
                size = int(np.prod(self._parts[self._name][0]))
                self.shape = require_vectors(self.path, (len(self._each), size), self.dtype)
                for name in self._each:
                    if int(np.prod(self._parts[name][0])) != size:
                        raise UsageError(
                            f"{shown(self.path)}: {printable(name)!r} has not the {size:,} numbers of {printable(self._name)!r}"
                        )
                return
            fits = [name for name, (shape, kind) in self._parts.items() if len(shape) == 2 and kind == "f"]
            self._name = choose(self.path, list(self._parts), fits.__contains__, array)
            self.dtype = file.array(self._name, 0, 0).dtype
            self.shape = require_vectors(
                self.path, self._parts[self._name][0], self.dtype, f"its {printable(self._name)!r}"
            )

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all vectors in blocks; see VectorFile.blocks."""
        step = rows_of_block(self.shape[1], self.dtype)
        with _opened(self.path) as file:
            for start in range(0, self.shape[0], step):
                if self._each:
                    some = self._each[start : start + step]
                    yield np.stack([file.array(name).reshape(-1).astype(self.dtype) for name in some])
                else:
                    yield file.array(self._name, start, min(start + step, self.shape[0]))

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return the columns besides the vectors; see VectorFile.columns."""
        if self._each:
            return {"key": [name.rpartition("/")[0] for name in self._each]}
        with _opened(self.path) as file:
            return {
                name: file.array(name).tolist()
                for name, (shape, kind) in self._parts.items()
                if shape == (self.shape[0],) and kind in "OSiufb"
            }


def probe(path: str, array: str | None) -> None:
    """Read all vectors and columns of an HDF5 file. Runs in the child process."""
    opened = Hdf5File.__new__(Hdf5File)
    opened.path = Path(path)
    opened._open_parts(array)
    opened.columns()
    for _ in opened.blocks():
        pass


def _one_a_picture(parts: dict[str, tuple[tuple[int, ...], str]], array: str | None) -> list[str]:
    """Return the names of the datasets that are one vector of one picture, as hloc writes them; [] if there are none.

    These datasets are called ``array`` (default: global_descriptor), each in a group named after the picture.
    """
    if array is not None and array in parts:
        return []
    wanted = array or "global_descriptor"
    return [
        name
        for name, (shape, kind) in parts.items()
        if name.endswith(f"/{wanted}") and kind == "f" and sum(size > 1 for size in shape) <= 1 and len(shape) <= 2
    ]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[hdf5.Plain]:
    try:
        with hdf5.open_plain(path) as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise UsageError(
            f"{shown(path)}: is no HDF5 file that can be read ({printable(' '.join(str(error).split()))[:120]})"
        ) from None
