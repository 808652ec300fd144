"""Measures of a classifier on weighted rows; the same code computes the measured value and its bootstrap replicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore.errors import DataError

Floats = NDArray[np.float64]

CALIBRATION_BINS: Final = 15
NAMES: Final = (
    "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error", "roc_auc", "average_precision",
)  # fmt: skip


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
        self._rankings = [Ranking(probabilities[:, k], codes == k) for k in range(self.classes)]

    def measure(self, weights: Floats) -> dict[str, float]:
        """Return all measures by name (see NAMES) for the row weights ``weights`` (n,).

        Averages over classes leave out classes whose rows all have weight 0.
        """
        total = float(weights.sum())
        table = class_table(self.codes, self.predicted, weights, self.classes)
        there = table.support > 0
        curves = [ranking.areas(weights) for ranking, present in zip(self._rankings, there, strict=True) if present]
        areas = np.array(curves).reshape(-1, 2)
        return {
            "accuracy": float(weights @ self.hits) / total,
            "balanced_accuracy": float(table.recall[there].mean()),
            "macro_f1": float(table.f1[there].mean()),
            "log_loss": float(weights @ self.losses) / total,
            "calibration_error": self._calibration_error(weights, total),
            "roc_auc": float(areas[:, 0].mean()),
            "average_precision": float(areas[:, 1].mean()),
        }

    def _calibration_error(self, weights: Floats, total: float) -> float:
        gaps = np.bincount(self.bins, weights * (self.hits - self.confidence), CALIBRATION_BINS)
        return float(np.abs(gaps).sum()) / total


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


def draws(rows: int, replicates: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield pairs of random weights (rows + 2,), one pair per replicate; the last two weights are for ``unseen_rows``.

    Bayesian bootstrap (D. Rubin, Annals of Statistics 1981): the weights are exponential, that is Dirichlet(1, ..., 1)
    after division by their sum. In the first weights of a pair, the artificial row that is predicted correctly has
    weight 0; in the second weights, the artificial row that is predicted wrongly has weight 0. The 95 % interval
    reaches from the 2.5 % quantile under the first weights to the 97.5 % quantile under the second weights. For the
    mean of a bounded variable, this is the interval of N. Gaffke (2005), and for a proportion that of Clopper and
    Pearson. So the interval has a positive width even if every row is right.
    """
    random = np.random.default_rng(seed)
    for _ in range(replicates):
        weights = random.standard_exponential(rows + 2)
        yield weights * np.r_[np.ones(rows + 1), 0.0], weights * np.r_[np.ones(rows), 0.0, 1.0]


class Ranking:
    """Rows sorted by their score for one class; rows with equal scores form a group."""

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        self._positive = positive[self._order].astype(np.float64)

    def areas(self, weights: Floats) -> tuple[float, float]:
        """Return two measures of one class: the area under its ROC curve (NaN if all rows are of this class), and the
        average precision."""
        ranked = weights[self._order]
        above = np.cumsum(ranked)[self._ends]
        true = np.cumsum(ranked * self._positive)[self._ends]
        false = above - true
        gained = np.diff(true, prepend=0.0)
        average_precision = float((gained * true / np.maximum(above, 1e-300)).sum() / true[-1])
        if not false[-1] > 0:
            return float("nan"), average_precision
        steps = np.diff(false, prepend=0.0)
        area = float((steps * (true - gained / 2)).sum() / (true[-1] * false[-1]))
        return area, average_precision
