"""Products of rows that do not depend on what else is in the batch, kernels, and the search for the nearest rows.

A matrix product rounds a row by the batch's shape and by the row's place in it: OpenBLAS' float32 kernel for AVX2 gives
equal rows of one batch different bits. Equal bits whatever the batch come from a call for each row; where that would be
slow, from a fast product whose rounding is bounded and whose close cases are computed again, row by row.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.solvers.blocks import BLOCK_ELEMENTS, block_rows

_SPARE: Final = 8
"""Neighbours that a search takes beyond those it was asked for: what rounding may have put into the wrong order."""


def row_products(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Return ``a @ b`` (m, c), each row of ``a`` (m, d) multiplied by a call of its own.

    The bits of a row are the same whatever rows are beside it. As fast as one product while ``b`` fits the cache.
    """
    return np.asarray(np.matmul(a[:, None, :], b)[:, 0])


def row_dots(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the inner products (...,) float64 of the last axes of ``a`` and ``b``, each by a call of its own."""
    left, right = (np.asarray(each, np.float64) for each in (a, b))
    return np.asarray(np.matmul(left[..., None, :], right[..., :, None])[..., 0, 0])


def rbf_kernel(a: NDArray[Any], b: NDArray[Any], gamma: float) -> NDArray[np.float64]:
    """Return exp(-gamma ||a_i - b_j||^2), (m, l) float64, for rows ``a`` (m, d) and ``b`` (l, d)."""
    return rbf_of_products(a @ b.T, a, b, gamma)


def rbf_of_products(products: NDArray[Any], a: NDArray[Any], b: NDArray[Any], gamma: float) -> NDArray[np.float64]:
    """Return rbf_kernel(a, b, gamma), (m, l) float64, from ``products`` = a @ b.T."""
    squares = _squared_distances(products, a, b)
    squares *= -gamma
    return np.asarray(np.exp(squares, out=squares))


def squared_distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return ||a_i - b_j||^2, (m, l) float64, for rows ``a`` (m, d) and ``b`` (l, d)."""
    return _squared_distances(a @ b.T, a, b)


def _squared_distances(products: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    squares = products.astype(np.float64)
    squares *= -2
    squares += row_dots(a, a)[:, None]
    squares += row_dots(b, b)
    return np.asarray(np.maximum(squares, 0, out=squares))


def unit_rows(block: NDArray[Any], mean: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return rows (m, d) float32 less ``mean``, of unit length; a row equal to the mean stays zero."""
    values = (block - mean.astype(block.dtype)).astype(np.float32)
    norms = np.sqrt(row_dots(values, values))
    values /= np.where(norms > 0, norms, 1.0).astype(np.float32)[:, None]
    return np.asarray(values)


def nearest(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], count: int, excluded: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return (cosine (m, k) float64, row (m, k)) of the ``count`` rows of ``vectors`` with the greatest inner product.

    ``queries``, ``vectors``: of unit length or zero. ``excluded``: (n,) rows that do not count; at least ``count`` must.
    Rows come most similar first; among equal ones the lower number first. A query's answer does not depend on the others.
    """
    count = min(count, len(vectors))
    step = max(1, BLOCK_ELEMENTS // len(vectors))
    found = np.empty((len(queries), count), np.float64)
    index = np.empty((len(queries), count), np.intp)
    taken = min(count + _SPARE, len(vectors))
    doubt = _doubt(vectors.shape[1])
    for start in range(0, len(queries), step):
        similarity = queries[start : start + step] @ vectors.T
        if excluded is not None:
            similarity[:, excluded] = -np.inf
        chosen = np.argpartition(-similarity, taken - 1, axis=1)[:, :taken]
        rough = -np.sort(-np.take_along_axis(similarity, chosen, axis=1), axis=1)
        # Where a row that was not taken may be among the nearest, all that may be are ranked.
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
    """Return the inner products (k,) of ``query`` with ``rows`` (k,) of ``vectors``, in pieces of bounded memory."""
    step = block_rows(len(query))
    return np.concatenate([row_dots(vectors[rows[at : at + step]], query) for at in range(0, len(rows), step)])


def _doubt(dimension: int) -> float:
    """Return by how much two float32 inner products of unit rows may be in the wrong order, whatever was added first.

    Each is within d roundings of the exact one (Higham 2002, section 3.1: Cauchy's inequality bounds the sum by 1).
    """
    return 2 * (dimension + 2) * float(np.finfo(np.float32).eps)
