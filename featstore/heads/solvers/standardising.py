"""Convert raw feature rows to the solver's dtype and standardise them, in small parts that stay in the CPU cache."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.solvers.blocks import Scaler
from featstore.heads.solvers.halves import is_half, widen

_TILE: Final = 8
"""Number of rows that NumPy processes as one long row. On a single short row, NumPy's fixed cost per row would be as
large as the cost of the arithmetic."""
_PART_VALUES: Final = 1 << 19
"""Number of feature values (2 MiB in float32) that ``RawRows.all`` standardises at once."""


class Standardiser:
    """Converts rows to ``dtype`` and standardises them, in a buffer that each thread reuses.

    The results equal those of ``Scaler.apply`` bit for bit. A new buffer for each block would cost more time (page
    faults) than the arithmetic takes.
    """

    def __init__(self, scaler: Scaler, dtype: np.dtype[Any]) -> None:
        self.dtype, self.dimension = dtype, len(scaler.mean)
        self._mean = np.tile(scaler.mean.astype(dtype), _TILE)
        self._factor = np.tile((1.0 / scaler.scale).astype(dtype), _TILE)
        self._scratch = threading.local()

    def standardise(self, block: NDArray[Any], inside: NDArray[np.intp] | slice) -> NDArray[Any]:
        """Return the rows of ``block`` (b, d) that ``inside`` selects, standardised.

        The next call in the same thread overwrites the result.
        """
        count = len(inside) if isinstance(inside, np.ndarray) else len(range(*inside.indices(len(block))))
        padded = -(-count // _TILE) * _TILE
        wide = self._memory("wide", padded, self.dtype)
        if isinstance(inside, np.ndarray):
            gathered = self._memory("gathered", padded, block.dtype)[:count]
            # mode="clip" lets numpy write to ``out`` without a temporary copy; all row numbers are in range anyway.
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
    """Rows of ``block`` (b, d) that are standardised when they are read.

    ``inside``: numbers (m,) of these rows in the block; None means all rows of the block.
    """

    block: NDArray[Any]
    inside: NDArray[np.intp] | None
    standardiser: Standardiser

    def __len__(self) -> int:
        return len(self.block) if self.inside is None else len(self.inside)

    def read(self, part: slice) -> NDArray[Any]:
        """Return the p rows in the slice ``part``, standardised (p, d); the thread's next read overwrites them."""
        return self.standardiser.standardise(self.block, part if self.inside is None else self.inside[part])

    def all(self) -> NDArray[Any]:
        """Return all rows (m, d), standardised, as a new array."""
        values = np.empty((len(self), self.standardiser.dimension), self.standardiser.dtype)
        step = max(1, _PART_VALUES // self.standardiser.dimension)
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            values[part] = self.read(part)
        return values
