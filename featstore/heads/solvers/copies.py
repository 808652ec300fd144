"""A standardised float32 copy of the training rows for random access: in memory, or in a temporary file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features
from featstore.errors import DataError
from featstore.heads.solvers.blocks import Scaler, iterate


@contextlib.contextmanager
def standardised_copy(X: Features, scaler: Scaler, rows: int, memory: int) -> Iterator[NDArray[np.float32]]:
    """Context manager that yields all ``rows`` of ``X``, standardised, as a (rows, d) array.

    A copy of more than ``memory`` bytes is a memory-mapped, unnamed file in the folder of temporary files (TMPDIR). The
    operating system keeps as much of the file in memory as fits. Raises DataError if the disk has no room for the file.
    """
    shape = (rows, len(scaler.mean))
    if 4 * rows * len(scaler.mean) <= memory:
        values = np.empty(shape, np.float32)
        start = 0
        for block in iterate(X):
            values[start : start + len(block)] = scaler.apply(block)
            start += len(block)
        yield values
        return
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="featstore-rows-"))
            for block in iterate(X):
                file.write(scaler.apply(block).astype(np.float32, copy=False).tobytes())
            file.flush()
        except OSError as error:
            need = 4 * rows * len(scaler.mean) / 2**30
            raise DataError(
                f"the copy of the training rows takes {need:.1f} GiB, which the folder of temporary files does not take "
                f"({error.strerror}); set TMPDIR to a folder with room, or raise memory_limit"
            ) from None
        yield np.memmap(file, np.float32, "r", shape=shape)
