"""Measures of a classifier on weighted rows; the same code computes the measured value and its bootstrap replicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from featstore.errors import DataError

Floats = NDArray[np.float64]

CALIBRATION_BINS: Final = 15
NAMES: Final = (
    "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error", "roc_auc", "average_precision",
)  # fmt: skip
# number of weights in one block of bootstrap replicates: 0.4 MB, so that intermediate arrays stay in the cache
_BLOCK_VALUES: Final = 50_000


@dataclass(frozen=True)
class ClassTable:
    """Per class (k,): precision, recall, F1, support (summed weight of its rows); and the confusion matrix (k, k).

    Rows of ``confusion`` are the true classes. Recall is NaN for a class without rows; precision is 0 for a class that
    is never predicted.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    support: Floats
    confusion: Floats


def class_table(codes: NDArray[np.intp], predicted: NDArray[np.intp], weights: Floats, classes: int) -> ClassTable:
    """Return the per-class measures of rows (n,) with ``weights`` (n,)."""
    confusion = np.bincount(codes * classes + predicted, weights, classes * classes).astype(np.float64)
    confusion = confusion.reshape(classes, classes)
    hits, support, claimed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(claimed > 0, hits / claimed, 0.0)
        recall = np.where(support > 0, hits / support, np.nan)
        f1 = np.where(support + claimed > 0, 2 * hits / (support + claimed), 0.0)
    return ClassTable(precision, recall, f1, support, confusion)


class Measurer:
    """Computes all measures of a classifier (accuracy, F1, log loss, ...) for given weights of the rows.

    Values that do not depend on the weights are computed only once. ``codes``: (n,) true class numbers;
    ``probabilities``: (n, k), rows summing to 1.
    """

    def __init__(self, codes: NDArray[np.intp], probabilities: Floats) -> None:
        self.codes, self.classes = codes, probabilities.shape[1]
        self.predicted: NDArray[np.intp] = probabilities.argmax(axis=1)
        rows = np.arange(len(codes))
        own = np.clip(probabilities[rows, codes], np.finfo(np.float64).eps, 1.0)
        self.losses: Floats = -np.log(own)
        self.confidence: Floats = probabilities[rows, self.predicted]
        bins = np.ceil(self.confidence * CALIBRATION_BINS).astype(np.intp) - 1
        self.bins: NDArray[np.intp] = np.clip(bins, 0, CALIBRATION_BINS - 1)
        self.hits: Floats = (self.predicted == codes).astype(np.float64)
        self._probabilities = probabilities

    @cached_property
    def _rankings(self) -> list[Ranking]:
        return [Ranking(self._probabilities[:, k], self.codes == k) for k in range(self.classes)]

    def measure(self, weights: Floats) -> dict[str, float]:
        """Return all measures by name (see NAMES) for the row weights ``weights`` (n,).

        Averages over classes leave out classes whose rows all have weight 0.
        """
        return dict(zip(NAMES, self.measure_each(weights[None])[0].tolist(), strict=True))

    def measure_each(self, weights: Floats) -> Floats:
        """Return the measures (m, 7), in the order of NAMES, for each of m row weightings ``weights`` (m, n)."""
        total = weights.sum(axis=1)
        support = grouped_sums(weights, self.codes, self.classes)
        claimed = grouped_sums(weights, self.predicted, self.classes)
        hits = grouped_sums(weights * self.hits, self.codes, self.classes)
        there = support > 0
        areas = np.stack([ranking.areas(weights) for ranking in self._rankings])
        with np.errstate(invalid="ignore", divide="ignore"):
            recall, f1 = hits / support, 2 * hits / (support + claimed)
        by_class = [recall, f1, areas[:, 0].T, areas[:, 1].T]
        means = [np.where(there, values, 0.0).sum(axis=1) / there.sum(axis=1) for values in by_class]
        gaps = grouped_sums(weights * (self.hits - self.confidence), self.bins, CALIBRATION_BINS)
        measured = {
            "accuracy": weights @ self.hits / total,
            "balanced_accuracy": means[0],
            "macro_f1": means[1],
            "log_loss": weights @ self.losses / total,
            "calibration_error": np.abs(gaps).sum(axis=1) / total,
            "roc_auc": means[2],
            "average_precision": means[3],
        }
        return np.stack([measured[name] for name in NAMES], axis=1)


def grouped_sums(weights: Floats, groups: NDArray[np.intp], count: int) -> Floats:
    """Return the sums (m, count) of the columns of ``weights`` (m, n) for each group number in ``groups`` (n,)."""
    rows = np.arange(len(groups))
    members = csr_matrix((np.ones(len(groups)), (groups, rows)), shape=(count, len(groups)))
    return np.asarray((members @ weights.T).T, np.float64)


def unseen_rows(codes: NDArray[np.intp], probabilities: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return two artificial rows for intervals: class numbers (2,) and probabilities (2, k).

    The first row is predicted wrongly and the second correctly, each with probability 1. The true class of both rows is
    the smallest class that has rows, because a row of this class changes averages over classes most. The wrongly
    predicted class is the smallest of the other classes.
    """
    sizes = np.bincount(codes, minlength=probabilities.shape[1])
    by_size = np.lexsort((sizes, sizes == 0))
    own, other = by_size[0], by_size[min(1, len(by_size) - 1)]
    return np.array([own, own], np.intp), np.eye(len(sizes))[[other, own]]


def group_numbers(groups: ArrayLike | None, rows: int) -> NDArray[np.intp]:
    """Return the number of the group of each of ``rows`` rows, counted from 0 by the first row of each group.

    Without ``groups``, each row is a group. Raises DataError if ``groups`` has another length than ``rows``.
    """
    if groups is None:
        return np.arange(rows)
    if len(np.asarray(groups)) != rows:
        raise DataError(f"groups of {len(np.asarray(groups)):,} rows, where {rows:,} are needed")
    _, first, inverse = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse.reshape(-1)], np.intp)


def grouped_draws(unit: NDArray[np.intp], replicates: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield pairs of blocks of random weights (m, n + 2) as ``draws`` does, with one weight for all rows of a group.

    ``unit`` (n,): the number of the group of each row, see ``group_numbers``. The two artificial rows weigh as much as a
    group, that is sum(s^2) / n rows for groups of s rows; otherwise they would not count beside large groups.
    """
    sizes = np.bincount(unit)
    places = np.r_[unit, len(sizes), len(sizes) + 1]
    scale = np.r_[np.ones(len(unit)), np.full(2, sizes @ sizes / len(unit))]
    for first, second in draws(len(sizes), replicates, seed, columns=len(places)):
        yield first[:, places] * scale, second[:, places] * scale


def draws(rows: int, replicates: int, seed: int, *, columns: int = 0) -> Iterator[tuple[Floats, Floats]]:
    """Yield pairs of blocks of random weights (m, rows + 2), one row of each block per replicate.

    The last two weights are for ``unseen_rows``. A block has about ``_BLOCK_VALUES`` weights; ``columns``: number of
    weights of a replicate for this limit, if the caller expands the weights of groups to their rows.

    Bayesian bootstrap (D. Rubin, Annals of Statistics 1981): the weights are exponential, that is Dirichlet(1, ..., 1)
    after division by their sum. In the first block of a pair, the artificial row that is predicted correctly has
    weight 0; in the second block, the artificial row that is predicted wrongly has weight 0. The 95 % interval
    reaches from the 2.5 % quantile under the first weights to the 97.5 % quantile under the second weights. For the
    mean of a bounded variable, this is the interval of N. Gaffke (2005), and for a proportion that of Clopper and
    Pearson. So the interval has a positive width even if every row is right.
    """
    random = np.random.default_rng(seed)
    size = max(1, _BLOCK_VALUES // max(rows + 2, columns))
    for start in range(0, replicates, size):
        weights = random.standard_exponential((min(size, replicates - start), rows + 2))
        yield weights * np.r_[np.ones(rows + 1), 0.0], weights * np.r_[np.ones(rows), 0.0, 1.0]


class Ranking:
    """Rows sorted by their score for one class; rows with equal scores form a group."""

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        # 32-bit numbers, because a ranking is kept for each class.
        self._order = np.argsort(-scores, kind="stable").astype(np.uint32)
        ranked = scores[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1).astype(np.uint32)
        self._positive = positive[self._order]

    def areas(self, weights: Floats) -> Floats:
        """Return two measures (2, m) of one class for m row weightings (m, n).

        The first is the area under the ROC curve, NaN where all rows are of this class; the second is the average
        precision. Both are NaN where the rows of this class have weight 0.
        """
        ranked = weights[:, self._order]
        above = np.cumsum(ranked, axis=1)[:, self._ends]
        true = np.cumsum(ranked * self._positive, axis=1)[:, self._ends]
        false = above - true
        gained, steps = np.diff(true, prepend=0.0), np.diff(false, prepend=0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            average_precision = (gained * true / np.maximum(above, 1e-300)).sum(axis=1) / true[:, -1]
            area = (steps * (true - gained / 2)).sum(axis=1) / (true[:, -1] * false[:, -1])
        return np.stack([np.where(false[:, -1] > 0, area, np.nan), average_precision])
