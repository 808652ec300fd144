"""Row blocks: the common interface through which heads read features from memory, from disk or from a store.

Features are a 2-d array (float16, float32, float64 or integer; read-only memory maps are accepted) or a *block source*:
any object with ``shape`` and ``blocks() -> Iterator[NDArray]``. ``blocks`` can be called repeatedly and yields the rows
in the same order each time. The functions that pass over the rows hold only one block of a source in memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features, RowBlocks
from featstore.errors import DataError
from featstore.heads.solvers.halves import all_finite, is_half, widen

BLOCK_ELEMENTS: Final = 4 << 20
"""Block size in values (16 MiB in float32): large enough for BLAS, small enough for the CPU caches."""


def is_blocks(X: object) -> TypeGuard[RowBlocks]:
    """Return whether ``X`` is a block source (has ``blocks`` and ``shape``) rather than an array."""
    return hasattr(X, "blocks") and hasattr(X, "shape")


@dataclass(frozen=True)
class SparseRows:
    """A SciPy sparse matrix as a block source, which converts one block at a time to a dense array."""

    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (rows, dimensions) of the features."""
        rows, dimension = self.matrix.shape
        return int(rows), int(dimension)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the rows of the sparse matrix in order, as dense blocks."""
        step = block_rows(self.shape[1])
        for start in range(0, self.shape[0], step):
            yield self.matrix[start : start + step].toarray()


def dense_blocks(X: Any) -> Any:
    """Return ``X`` unchanged, or as a block source if ``X`` is a SciPy sparse matrix."""
    # Do not import scipy.sparse, which takes 0.2 s: if it is not imported yet, ``X`` cannot be a sparse matrix.
    sparse = sys.modules.get("scipy.sparse")
    return SparseRows(sparse.csr_array(X)) if sparse is not None and sparse.issparse(X) else X


def block_rows(dimension: int) -> int:
    """Return the number of rows in a block, for rows of ``dimension`` values."""
    return max(64, BLOCK_ELEMENTS // max(1, dimension))


def working_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the floating-point type for computations: float64 for float64 features, float32 for all other types."""
    return np.dtype(np.float64) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)


def iterate(X: Features) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array or block source as finite float32 or float64 blocks of bounded size.

    Raises DataError if the rows are not 2-d or not numeric, if their width differs from ``shape``, or for NaN or
    infinity.
    """
    start = 0
    for piece in raw_blocks(X):
        yield _checked(piece, start)
        start += len(piece)


def raw_blocks(X: Features, values: int = BLOCK_ELEMENTS) -> Iterator[NDArray[Any]]:
    """Yield the rows of an array or block source without conversion, in blocks of about ``values`` values.

    Raises DataError if the rows are not 2-d or not numeric, or if their number or width differs from ``shape``.
    """
    if not is_blocks(X):
        array = np.asarray(X)
        if array.ndim != 2:
            raise DataError(f"features must be a 2-d array (rows, dimensions), not {array.ndim}-d; reshape them")
        yield from _pieces(array, array.shape[1], values)
        return
    rows, dimension = X.shape
    found = 0
    for block in X.blocks():
        for piece in _pieces(np.asarray(block), dimension, values):
            yield piece
            found += len(piece)
    if found != rows:
        raise DataError(f"the block source announced {rows:,} rows and yielded {found:,}; it must be re-iterable")


def _pieces(array: NDArray[Any], dimension: int, values: int) -> Iterator[NDArray[Any]]:
    if array.dtype.kind not in "fiub":
        raise DataError(f"features must be numbers, not {array.dtype}; convert them first")
    if array.ndim != 2 or array.shape[1] != dimension:
        raise DataError(f"a block of shape {array.shape}, where rows of {dimension} values are expected")
    step = max(64, values // max(1, dimension))
    for start in range(0, len(array), step):
        yield array[start : start + step]


def _checked(block: NDArray[Any], start: int) -> NDArray[Any]:
    if is_half(block):
        if all_finite(block):
            return widen(block)
        raise _not_finite(block, start)
    values = np.ascontiguousarray(block, working_dtype(block.dtype))
    # Any NaN or infinity makes the sum non-finite. Test all values only if the sum is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float64)
    if not math.isfinite(total) and not np.isfinite(values).all():
        raise _not_finite(values, start)
    return values


def _not_finite(values: NDArray[Any], start: int) -> DataError:
    finite = np.isfinite(values).all(axis=1)
    bad = int(np.count_nonzero(~finite))
    first = start + int(np.argmin(finite))
    return DataError(
        f"features contain NaN or infinity in {bad} row(s), the first is row {first}; "
        "remove these rows or extract them again"
    )


@dataclass(frozen=True)
class Scaler:
    """Column-wise standardisation ``(x - mean) / scale``. ``mean``, ``scale``: (d,); scale 1 for constant columns."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def apply(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return a standardised copy of ``block`` (m, d): float64 if ``block`` is float64, otherwise float32."""
        dtype = working_dtype(block.dtype)
        out = np.subtract(block, self.mean.astype(dtype), dtype=dtype)
        out *= (1.0 / self.scale).astype(dtype)
        return np.asarray(out)


def measure(X: Features, *, standardize: bool) -> tuple[Scaler, int, np.dtype[Any]]:
    """Measure the columns and check all rows in one pass; return (scaler, number of rows, dtype for computations).

    ``standardize``: whether the scaler divides each column by its population standard deviation, as scikit-learn's
    StandardScaler does. The mean is always subtracted: this keeps float32 accurate, and leaves the optimum unchanged
    because the intercept is not penalised. Means and variances of blocks are merged in float64 (Chan, Golub and LeVeque
    1983). Raises the DataErrors of ``iterate``, and DataError if there are no rows or no columns.
    """
    count, dtype = 0, np.dtype(np.float32)
    mean: NDArray[np.float64] | None = None
    squares = np.zeros(0)
    for block in iterate(X):
        dtype = np.promote_types(dtype, block.dtype)
        pivot = block.mean(axis=0, dtype=np.float64)
        centred = block - pivot.astype(block.dtype)
        shift = centred.mean(axis=0, dtype=np.float64)
        block_mean = pivot.astype(block.dtype).astype(np.float64) + shift
        block_squares = np.einsum("ij,ij->j", centred, centred, dtype=np.float64) - len(block) * shift**2
        if mean is None:
            count, mean, squares = len(block), block_mean, block_squares
            continue
        delta, total = block_mean - mean, count + len(block)
        mean = mean + delta * (len(block) / total)
        squares = squares + block_squares + delta**2 * (count * len(block) / total)
        count = total
    if mean is None or not len(mean):
        shape = X.shape if is_blocks(X) else np.shape(X)
        raise DataError(f"nothing to train on: the features have the shape {tuple(shape)}, with 0 feature(s) or rows")
    deviation = np.sqrt(np.maximum(squares, 0.0) / count)
    # A column counts as constant if its standard deviation is within the rounding error of its mean.
    constant = deviation <= 10 * np.finfo(dtype).eps * np.abs(mean)
    scale = np.where(constant | (deviation == 0), 1.0, deviation) if standardize else np.ones_like(deviation)
    return Scaler(mean, scale), count, dtype


@dataclass(frozen=True)
class MappedBlocks:
    """A block source that applies a function to each block of another source: (m, d) to (m, ``dimension``)."""

    source: Features
    function: Callable[[NDArray[Any]], NDArray[Any]]
    dimension: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (rows, dimensions) of the source after applying the function."""
        return (row_count(self.source), self.dimension)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Apply the function to each block of the source, and yield the results."""
        for block in iterate(self.source):
            yield self.function(block)


def row_count(X: Features) -> int:
    """Return the number of rows of an array or block source."""
    return int(X.shape[0])


def take_rows(X: Features, rows: NDArray[np.intp]) -> NDArray[Any]:
    """Return the rows of ``X`` with the increasing numbers ``rows`` (m,) as an (m, d) array, read in one pass."""
    if not is_blocks(X):
        return np.ascontiguousarray(np.asarray(X)[rows])
    parts: list[NDArray[Any]] = []
    start = 0
    for block in iterate(X):
        low, high = np.searchsorted(rows, [start, start + len(block)])
        parts.append(block[rows[low:high] - start])
        start += len(block)
    return np.concatenate(parts)
