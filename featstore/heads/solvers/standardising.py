"""Convert and standardise raw rows in small parts that stay in the CPU cache."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.solvers.blocks import Scaler
from featstore.heads.solvers.halves import is_half, widen

_TILE: Final = 8
"""Number of rows processed by numpy as one long row; for short rows, numpy's overhead is as large as the arithmetic."""
_PART_VALUES: Final = 1 << 19
"""Number of values (2 MiB in float32) that are standardised at once."""


class Standardiser:
    """Converts and standardises rows in a buffer that each thread reuses; bit-identical to ``Scaler.apply``.

    Allocating a new buffer for each block would cost more page-fault time than the arithmetic takes.
    """

    def __init__(self, scaler: Scaler, dtype: np.dtype[Any]) -> None:
        self.dtype, self.dimension = dtype, len(scaler.mean)
        self._mean = np.tile(scaler.mean.astype(dtype), _TILE)
        self._factor = np.tile((1.0 / scaler.scale).astype(dtype), _TILE)
        self._scratch = threading.local()

    def standardise(self, block: NDArray[Any], inside: NDArray[np.intp] | slice) -> NDArray[Any]:
        """Return the rows ``inside`` of ``block`` (b, d), standardised; this thread's next call overwrites them."""
        count = len(inside) if isinstance(inside, np.ndarray) else len(range(*inside.indices(len(block))))
        padded = -(-count // _TILE) * _TILE
        wide = self._memory("wide", padded, self.dtype)
        if isinstance(inside, np.ndarray):
            gathered = self._memory("gathered", padded, block.dtype)[:count]
            # With mode="clip", numpy writes to ``out`` without a temporary copy. All row numbers are in range anyway.
            rows = np.take(block, inside, axis=0, out=gathered, mode="clip")
        else:
            rows = block[inside]
        if is_half(rows) and self.dtype == np.float32:
            widen(rows, wide[:count])
        else:
            np.copyto(wide[:count], rows, casting="same_kind")
        wide[count:] = 0
        tiled = wide.reshape(padded // _TILE, _TILE * self.dimension)
        np.subtract(tiled, self._mean, out=tiled)
        np.multiply(tiled, self._factor, out=tiled)
        return wide[:count]

    def _memory(self, name: str, rows: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        known: NDArray[Any] | None = getattr(self._scratch, name, None)
        if known is None or len(known) < rows or known.dtype != dtype:
            known = np.empty((rows, self.dimension), dtype)
            setattr(self._scratch, name, known)
        return known[:rows]


@dataclass(frozen=True)
class RawRows:
    """Raw rows of ``block`` (b, d). ``inside``: numbers (m,) of the rows; None means all rows of the block."""

    block: NDArray[Any]
    inside: NDArray[np.intp] | None
    standardiser: Standardiser

    def __len__(self) -> int:
        return len(self.block) if self.inside is None else len(self.inside)

    def read(self, part: slice) -> NDArray[Any]:
        """Return the rows ``part``, standardised, (p, d); the next read in the same thread overwrites them."""
        return self.standardiser.standardise(self.block, part if self.inside is None else self.inside[part])

    def all(self) -> NDArray[Any]:
        """Return all rows (m, d), standardised, as a new array."""
        values = np.empty((len(self), self.standardiser.dimension), self.standardiser.dtype)
        step = max(1, _PART_VALUES // self.standardiser.dimension)
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            values[part] = self.read(part)
        return values
