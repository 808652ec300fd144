"""Read feature matrices as float32 blocks, with rows scaled to length 1 if the metric is cosine.

A feature matrix is an array, or a block source: an object with ``shape`` (n, d) and ``blocks()``, which yields rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import UsageError

Metric = Literal["cosine", "l2", "ip"]
Floats: TypeAlias = NDArray[np.float32]
# Squares of very large or small values overflow or underflow float32: squared norms outside these bounds are computed
# again in float64.
_LEAST, _MOST = 1e-24, 1e30
# Tolerance for a squared norm of 1, after normalising in float32.
_UNIT = 1e-6


@dataclass(frozen=True)
class PickedRows:
    """Block source of the rows at ``positions`` (m,).

    ``read`` takes p positions and returns the rows (p, d) at these positions.
    """

    read: Callable[[NDArray[np.int64]], Floats]
    positions: NDArray[np.int64]
    dimension: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (m, d) of the rows."""
        return len(self.positions), self.dimension

    def blocks(self) -> Iterator[Floats]:
        """Yield the rows in blocks of bounded size."""
        step = block_rows(self.dimension)
        for first in range(0, len(self.positions), step):
            yield self.read(self.positions[first : first + step])


def check_metric(metric: str) -> Metric:
    """Return ``metric`` unchanged; raise UsageError, which lists the known metrics, if ``metric`` is unknown."""
    if metric not in get_args(Metric):
        raise UsageError(f"metric {metric!r} is not known; choose one of {', '.join(get_args(Metric))}")
    return cast(Metric, metric)


def shape_of(vectors: Features) -> tuple[int, int]:
    """Return the shape (n, d) of ``vectors``; raise UsageError if ``vectors`` is not a matrix."""
    shape = tuple(int(size) for size in vectors.shape)
    if len(shape) != 2 or shape[1] == 0:
        raise UsageError(f"vectors need the shape (rows, dimensions), not {shape}")
    return shape


def prepare(block: NDArray[Any], metric: Metric, first_row: int = 0) -> Floats:
    """Return ``block`` (m, d) as contiguous float32, with rows scaled to length 1 if ``metric`` is cosine.

    A zero row stays zero, so its cosine with every vector is 0.
    Raises UsageError naming the first row (counted from ``first_row``) that has NaN or infinity. ``block`` is never
    changed. If it needs no conversion, it is returned without copying; rows of length 1 within rounding are not scaled.
    """
    rows = np.ascontiguousarray(block, np.float32)
    if rows.ndim != 2:
        raise UsageError(f"vectors need the shape (rows, dimensions), not {block.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows)
    ordinary = (squares > _LEAST) & (squares < _MOST)
    unit = np.abs(squares - 1) < _UNIT
    if ordinary.all() and (metric != "cosine" or unit.all()):
        return rows
    strange = np.flatnonzero(~ordinary)
    for row in strange:
        if not np.isfinite(rows[row]).all():
            raise UsageError(f"row {first_row + row} holds NaN or infinity; leave it out or extract it again")
    if metric != "cosine":
        return rows
    lengths = np.sqrt(squares, where=squares > 0, out=np.zeros_like(squares))
    lengths[unit | ~ordinary] = 1
    normalised: Floats = rows / lengths[:, None]
    for row in strange:
        exact = rows[row].astype(np.float64)
        length = np.sqrt(exact @ exact)
        normalised[row] = exact / length if length > 0 else 0
    return normalised


def prepare_queries(queries: NDArray[Any], metric: Metric) -> Floats:
    """Return ``queries`` as contiguous float32, of length 1 for cosine, as ``prepare`` does; faster for a single query.

    The overhead of NumPy in ``prepare`` would be a third of the time of a single-query search. BLAS computes the length
    of a single query here, so the last bits may differ from ``prepare``.
    """
    if len(queries) == 1:
        rows = np.ascontiguousarray(queries, np.float32)
        # NaN or infinity in the query makes this sum non-finite. numpy.vdot, unlike numpy.dot, does not warn about
        # that.
        square = float(np.vdot(rows, rows))
        if _LEAST < square < _MOST:
            as_it_is = metric != "cosine" or abs(square - 1) < _UNIT
            return rows if as_it_is else rows / math.sqrt(square)
    return prepare(queries, metric)


def block_rows(dimension: int) -> int:
    """Return the number of float32 rows in a block of ``defaults.INDEX_BLOCK_BYTES``."""
    return max(1, defaults.INDEX_BLOCK_BYTES // (4 * dimension))


def prepared_blocks(vectors: Features, metric: Metric) -> Iterator[tuple[int, Floats]]:
    """Yield (number of the first row, block) for all blocks of ``vectors``, each block converted by ``prepare``.

    Raises UsageError if the rows do not match ``vectors.shape``, or a row contains NaN or infinity.
    """
    rows, dimension = shape_of(vectors)
    step = block_rows(dimension)
    start = 0
    for given in [vectors] if isinstance(vectors, np.ndarray) else vectors.blocks():
        if given.ndim != 2 or given.shape[1] != dimension:
            raise UsageError(f"a block has the shape {given.shape} where (rows, {dimension}) is needed")
        for first in range(0, len(given), step):
            piece = given[first : first + step]
            yield start, prepare(piece, metric, start)
            start += len(piece)
    if start != rows:
        raise UsageError(f"the blocks hold {start:,} rows where {rows:,} were announced")


def gather(vectors: Features, metric: Metric, rows: NDArray[np.int64]) -> Floats:
    """Return the rows ``rows`` (m,) of ``vectors``, converted by ``prepare``, as (m, d); ``vectors`` is read once."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    found = np.empty((len(rows), shape_of(vectors)[1]), np.float32)
    if isinstance(vectors, np.ndarray):
        for first in range(0, len(rows), step := block_rows(found.shape[1])):
            part = slice(first, first + step)
            found[order[part]] = prepare(vectors[ascending[part]], metric)
        return found
    for start, block in prepared_blocks(vectors, metric):
        low, high = np.searchsorted(ascending, (start, start + len(block)))
        found[order[low:high]] = block[ascending[low:high] - start]
    return found
