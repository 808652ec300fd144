"""Exact search, block by block, and leave-one-out nearest-neighbour accuracy.

The queries, one block and the results are in memory, never n x n scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import UsageError
from featstore.indexes.blocks import Floats, Metric, check_metric, gather, prepare, prepared_blocks, shape_of
from featstore.indexes.files import faiss_io
from featstore.stats import wilson_interval
from featstore.store.features import identity_of, require_same

_QUERIES_AT_ONCE = 8192


class Best:
    """For each of q queries, the best ``k`` of all rows that were passed to ``offer``.

    ``scores`` float32 (q, k) and ``rows`` int64 (q, k; -1 for none) have the best first. At equal scores, the row that
    was passed earlier comes first. Scores are inner products (``inner_product``) or squared Euclidean distances.
    """

    def __init__(self, queries: Floats, k: int, inner_product: bool, threads: int | None = None) -> None:
        self._queries, self._k, self._inner_product, self._threads = queries, k, inner_product, threads
        self.scores = np.full((len(queries), k), -np.inf if inner_product else np.inf, np.float32)
        self.rows = np.full((len(queries), k), -1, np.int64)

    def offer(self, block: Floats, rows: NDArray[np.int64]) -> None:
        """Update ``scores`` and ``rows`` with the vectors ``block`` (m, d), whose row numbers are ``rows`` (m,)."""
        if not len(block) or not len(self._queries):
            return
        scores, places = faiss_io.knn(
            self._queries, block, min(self._k, len(block)), self._inner_product, self._threads
        )
        both = np.concatenate([self.scores, scores], axis=1)
        called = np.concatenate([self.rows, np.where(places >= 0, rows[places], -1)], axis=1)
        order = np.argsort(-both if self._inner_product else both, axis=1, kind="stable")[:, : self._k]
        self.scores = np.take_along_axis(both, order, axis=1)
        self.rows = np.take_along_axis(called, order, axis=1)


def exact_search(
    vectors: Features,
    queries: NDArray[np.floating],
    k: int,
    *,
    metric: Metric = "cosine",
    allowed: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the true neighbours of ``queries`` (q, d) in ``vectors`` (n, d): scores (q, k) and rows (q, k).

    Scores are cosines or inner products, descending, or for "l2" squared Euclidean distances, ascending.
    ``allowed`` (n,): mask of the rows to search. If these are fewer than ``k``, missing rows are -1, score -inf (l2:
    +inf). Raises UsageError for wrong shapes, NaN or infinity, or ``k`` below 1; IdentityError if vectors and queries
    have different identities.
    """
    check_metric(metric)
    require_same(identity_of(vectors), queries, "the searched features")
    check_queries(queries, shape_of(vectors)[1], k)
    best = Best(prepare(queries, metric), k, metric != "l2", threads)
    for start, block in prepared_blocks(vectors, metric):
        names = np.arange(start, start + len(block))
        if allowed is not None:
            names = names[allowed[start : start + len(block)]]
            block = block[names - start] if len(names) < len(block) else block
        best.offer(block, names)
    return best.scores, best.rows


def check_queries(queries: NDArray[np.floating], dimension: int, k: int) -> None:
    """Raise UsageError unless ``queries`` is (q, ``dimension``) and ``k`` at least 1."""
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise UsageError(f"queries have the shape {queries.shape}, not (q, {dimension}); use the same backbone")
    if k < 1:
        raise UsageError(f"k is {k}; it has to be at least 1")


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out ``accuracy`` of the nearest-neighbour classifier, 0..1, with its 95 % interval."""

    accuracy: float
    low: float
    high: float
    queries: int


def leave_one_out_accuracy(
    vectors: Features,
    labels: Sequence[object],
    metric: Metric = "cosine",
    *,
    sample: int | None = None,
    seed: int = defaults.SEED,
    threads: int | None = None,
) -> LeaveOneOut:
    """Return the leave-one-out accuracy of the nearest-neighbour classifier, with Wilson's 95 % interval.

    The accuracy is the share of rows whose nearest neighbour among all other labelled rows has the same label.
    ``labels`` (n,): None excludes a row. ``sample``: number of query rows to draw with ``seed``; each of them is
    compared with all other labelled rows. Raises UsageError if fewer than two rows have labels.
    """
    check_metric(metric)
    if len(labels) != shape_of(vectors)[0]:
        raise UsageError(f"{len(labels):,} labels were given for {shape_of(vectors)[0]:,} rows")
    names: dict[object, int] = {}
    codes = np.array([-1 if label is None else names.setdefault(label, len(names)) for label in labels], np.int64)
    labelled = np.flatnonzero(codes >= 0)
    if len(labelled) < 2:
        raise UsageError("leave-one-out needs at least two labelled rows; give labels first")
    asked = labelled
    if sample is not None and sample < len(labelled):
        asked = np.sort(np.random.default_rng(seed).choice(labelled, sample, replace=False))
    right = 0
    for first in range(0, len(asked), _QUERIES_AT_ONCE):
        part = asked[first : first + _QUERIES_AT_ONCE]
        best = Best(gather(vectors, metric, part), 2, metric != "l2", threads)
        for start, block in prepared_blocks(vectors, metric):
            taken = np.flatnonzero(codes[start : start + len(block)] >= 0)
            best.offer(block if len(taken) == len(block) else block[taken], taken + start)
        # The row itself is not its own neighbour. If exact copies of a row rank before it, a copy is the nearest one.
        nearest = np.where(best.rows[:, 0] == part, best.rows[:, 1], best.rows[:, 0])
        right += int((codes[nearest] == codes[part]).sum())
    low, high = wilson_interval(right / len(asked), len(asked))
    return LeaveOneOut(right / len(asked), low, high, len(asked))
