"""Batch-invariant arithmetic: the result for a row does not depend on the other rows of the batch.

In a matrix product, the rounding of a row depends on the shape of the batch and on the position of the row: OpenBLAS'
float32 kernel for AVX2 gives equal rows of one batch different bits. A separate product for each row gives the same
bits in any batch. Where separate products would be slow, a matrix product is computed first, and only the cases that
rounding could decide are computed again row by row.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DataError
from featstore.heads.solvers.blocks import BLOCK_ELEMENTS, block_rows

_SPARE: Final = 8
"""Number of extra neighbours to fetch: the first search uses float32, whose rounding may change
the order of neighbours."""


def row_products(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Return ``a @ b`` (m, c) with a separate product for each row of ``a`` (m, d).

    The bits of a row do not depend on the other rows. The speed is that of one matrix product while ``b`` fits into the
    cache.
    """
    return np.asarray(np.matmul(a[:, None, :], b)[:, 0])


def row_dots(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the inner products (...,) float64 along the last axes of ``a`` and ``b``, each computed separately."""
    left, right = (np.asarray(each, np.float64) for each in (a, b))
    return np.asarray(np.matmul(left[..., None, :], right[..., :, None])[..., 0, 0])


def require_finite(decisions: NDArray[np.float64]) -> None:
    """Raise DataError if a decision value is NaN or infinite."""
    if not np.isfinite(decisions).all():
        raise DataError(
            "the head gives decision values that are not finite: the features are too large, or the head's file is damaged"
        )


def margins(decisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the margin (m,) of each row's class: the largest decision value minus the second largest, or the distance
    from 0 if there is only one value.
    """
    if decisions.shape[1] == 1:
        return np.abs(decisions[:, 0])
    first_two = np.partition(decisions, -2, axis=1)[:, -2:]
    return np.asarray(first_two[:, 1] - first_two[:, 0])


def rbf_kernel(a: NDArray[Any], b: NDArray[Any], gamma: float) -> NDArray[np.float64]:
    """Return the RBF kernel exp(-gamma ||a_i - b_j||^2), (m, l) float64, of rows ``a`` (m, d) and ``b`` (l, d)."""
    return rbf_of_products(a @ b.T, a, b, gamma)


def rbf_of_products(products: NDArray[Any], a: NDArray[Any], b: NDArray[Any], gamma: float) -> NDArray[np.float64]:
    """Return rbf_kernel(a, b, gamma), (m, l) float64, from ``products`` = a @ b.T."""
    squares = _squared_distances(products, a, b)
    squares *= -gamma
    return np.asarray(np.exp(squares, out=squares))


def squared_distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the squared distances ||a_i - b_j||^2, (m, l) float64, of the rows of ``a`` (m, d) and ``b`` (l, d)."""
    return _squared_distances(a @ b.T, a, b)


def _squared_distances(products: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    squares = products.astype(np.float64)
    squares *= -2
    squares += row_dots(a, a)[:, None]
    squares += row_dots(b, b)
    return np.asarray(np.maximum(squares, 0, out=squares))


def unit_rows(block: NDArray[Any], mean: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the rows of ``block`` (m, d) minus ``mean``, scaled to unit length, in float32.

    A row equal to the mean becomes zero.
    """
    values = (block - mean.astype(block.dtype)).astype(np.float32)
    norms = np.sqrt(row_dots(values, values))
    values /= np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None]
    return np.asarray(values)


def nearest(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], count: int, excluded: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Search the k = ``count`` rows of ``vectors`` (n, d) nearest to each of the ``queries`` (m, d), by cosine.

    Returns (cosines (m, k) float64, row numbers (m, k)), sorted by decreasing cosine, then by row number. All vectors
    must have unit length or be zero. ``excluded``: (n,) mask of rows to ignore; at least ``count`` rows must remain.
    The result of a query does not depend on the other queries.
    """
    count = min(count, len(vectors))
    step = max(1, BLOCK_ELEMENTS // len(vectors))
    found = np.empty((len(queries), count), np.float64)
    index = np.empty((len(queries), count), np.intp)
    taken = min(count + _SPARE, len(vectors))
    doubt = _rounding_bound(vectors.shape[1])
    for start in range(0, len(queries), step):
        similarity = queries[start : start + step] @ vectors.T
        if excluded is not None:
            similarity[:, excluded] = -np.inf
        chosen = np.argpartition(-similarity, taken - 1, axis=1)[:, :taken]
        rough = -np.sort(-np.take_along_axis(similarity, chosen, axis=1), axis=1)
        # Because of rounding, ``chosen`` may lack a nearest row: then rank all rows with similar enough scores instead.
        sure = (taken == len(vectors)) | (rough[:, -1] < rough[:, count - 1] - doubt)
        for number in range(len(similarity)):
            row = start + number
            candidates = (
                chosen[number]
                if sure[number]
                else np.flatnonzero(similarity[number] >= rough[number, count - 1] - doubt)
            )
            if excluded is not None:
                candidates = candidates[~excluded[candidates]]
            candidates.sort()
            exact = _cosines(queries[row], vectors, candidates)
            order = np.argsort(-exact, kind="stable")[:count]
            found[row], index[row] = exact[order], candidates[order]
    return found, index


def _cosines(query: NDArray[np.float32], vectors: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the inner products (k,) of ``query`` with the ``rows`` (k,) of ``vectors``, in blocks of bounded size."""
    step = block_rows(len(query))
    return np.concatenate([row_dots(vectors[rows[at : at + step]], query) for at in range(0, len(rows), step)])


def _rounding_bound(dimension: int) -> float:
    """Return the largest difference of two inner products at which float32 rounding can still reverse their order.

    All rows have length 1.

    The bound holds for every order of summation: each term is rounded at most d times (Higham 2002, section 3.1), and
    the sum of the absolute values of the terms is at most 1 (Cauchy's inequality).
    """
    return 2 * (dimension + 2) * float(np.finfo(np.float32).eps)
