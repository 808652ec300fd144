"""Rows as they are stored, converted and standardised in the cache of the core that computes with them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.solvers.blocks import Scaler
from featstore.heads.solvers.halves import is_half, widen

_TILE: Final = 8
"""Rows for which mean and scale are repeated: numpy's loops over short rows cost as much as their arithmetic."""
_PART_VALUES: Final = 1 << 19
"""Values (2 MiB in float32) that are standardised at once where more are asked for."""


class Standardiser:
    """Converts and standardises rows, to the bits of ``Scaler.apply``, in memory that each thread uses again and again.

    Fresh memory for each block would cost more, in page faults, than the arithmetic.
    """

    def __init__(self, scaler: Scaler, dtype: np.dtype[Any]) -> None:
        self.dtype, self.dimension = dtype, len(scaler.mean)
        self._mean = np.tile(scaler.mean.astype(dtype), _TILE)
        self._factor = np.tile((1.0 / scaler.scale).astype(dtype), _TILE)
        self._scratch = threading.local()

    def standardise(self, block: NDArray[Any], inside: NDArray[np.intp] | slice) -> NDArray[Any]:
        """Return the rows ``inside`` of ``block`` (b, d): valid until this thread asks for others."""
        count = len(inside) if isinstance(inside, np.ndarray) else len(range(*inside.indices(len(block))))
        padded = -(-count // _TILE) * _TILE
        wide = self._memory("wide", padded, self.dtype)
        if isinstance(inside, np.ndarray):
            gathered = self._memory("gathered", padded, block.dtype)[:count]
            # The mode spares numpy a copy; rows that are not there do not come up.
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
    """The rows of ``block`` (b, d) numbered ``inside`` (m,), or all of them (None), as they are stored."""

    block: NDArray[Any]
    inside: NDArray[np.intp] | None
    standardiser: Standardiser

    def __len__(self) -> int:
        return len(self.block) if self.inside is None else len(self.inside)

    def read(self, part: slice) -> NDArray[Any]:
        """Return the rows of ``part`` (p, d), standardised: valid until this thread reads others."""
        return self.standardiser.standardise(self.block, part if self.inside is None else self.inside[part])

    def all(self) -> NDArray[Any]:
        """Return all rows (m, d), standardised, in memory of their own."""
        values = np.empty((len(self), self.standardiser.dimension), self.standardiser.dtype)
        step = max(1, _PART_VALUES // self.standardiser.dimension)
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            values[part] = self.read(part)
        return values
