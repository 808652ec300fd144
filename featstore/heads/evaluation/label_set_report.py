"""Evaluation of a head that predicts label sets, on held-out rows: each measure with a 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from featstore import defaults
from featstore.errors import DataError
from featstore.heads.evaluation.measures import Floats, Ranking, draws
from featstore.heads.evaluation.report import Estimate, interval_of, json_number
from featstore.text import counted

NAMES: Final = ("mean_average_precision", "macro_f1", "micro_f1", "exact_match")
TITLES: Final = {
    "mean_average_precision": "mean average precision", "macro_f1": "macro F1", "micro_f1": "micro F1",
    "exact_match": "whole set right",
}  # fmt: skip


@dataclass(frozen=True)
class LabelSetsReport:
    """Result of evaluate_label_sets. ``estimates``: values with intervals by the names in NAMES.

    For each label (k,): ``average_precision``, NaN without a held-out row; ``precision``, ``recall`` and ``f1`` at the
    label's threshold; ``support``: number of rows with the label. ``missing``: labels that no row has.
    """

    headline: ClassVar[str] = "mean_average_precision"
    titles: ClassVar[dict[str, str]] = TITLES
    classes: list[str]
    thresholds: Floats
    rows: int
    estimates: dict[str, Estimate]
    average_precision: Floats
    precision: Floats
    recall: Floats
    f1: Floats
    support: NDArray[np.int64]
    missing: list[str]
    replicates: int
    seed: int

    def __repr__(self) -> str:
        one = self.estimates[self.headline]
        return (
            f"<LabelSetsReport: mean average precision {one.value:.4f} [{one.low:.4f}, {one.high:.4f}] on "
            f"{self.rows:,} rows, {len(self.classes):,} labels>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types; undefined values are None."""
        return {
            "rows": self.rows,
            "estimates": {
                name: {"value": json_number(e.value), "low": json_number(e.low), "high": json_number(e.high)}
                for name, e in self.estimates.items()
            },
            "labels": self.label_rows(),
            "missing_labels": self.missing,
            "intervals": {
                "level": 0.95,
                "method": "Bayesian bootstrap over rows and one row that was not seen, wrong or right",
                "replicates": self.replicates,
                "seed": self.seed,
            },
        }

    def label_rows(self) -> list[dict[str, Any]]:
        """Return the figures of each label as JSON types."""
        names = ("threshold", "average_precision", "precision", "recall", "f1")
        columns = (self.thresholds, self.average_precision, self.precision, self.recall, self.f1)
        return [
            {"label": label, **dict(zip(names, map(json_number, row), strict=True)), "support": support}
            for label, support, *row in zip(self.classes, self.support.tolist(), *columns, strict=True)
        ]

    def text(self) -> str:
        """Return the report as lines of text."""
        lines = [f"{self.rows:,} rows, {counted(len(self.classes), 'label')}; figure [95 % interval]"]
        for name, one in self.estimates.items():
            lines.append(f"  {TITLES[name]:<24} {one.value:.4f} [{one.low:.4f}, {one.high:.4f}]")
        if self.missing:
            lines.append(f"  no rows of {', '.join(self.missing)}: left out of the averages over labels")
        width = max(5, *(len(name) for name in self.classes))
        lines.append(f"  {'label':<{width}} average precision  precision  recall      F1  threshold  support")
        for row in self.label_rows():
            shown = [
                "-" if row[name] is None else f"{row[name]:.4f}"
                for name in ("average_precision", "precision", "recall", "f1", "threshold")
            ]
            places = (17, 9, 6, 6, 9)
            cells = "  ".join(f"{text:>{place}}" for text, place in zip(shown, places, strict=True))
            lines.append(f"  {row['label']:<{width}} {cells}  {row['support']:7,}")
        return "\n".join(lines)


def evaluate_label_sets(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    thresholds: ArrayLike,
    *,
    replicates: int | None = None,
    seed: int = defaults.SEED,
) -> LabelSetsReport:
    """Return the report on ``probabilities`` (n, k) of k labels, and the label sets ``y_true`` (n, k) of 1 and 0.

    A label is predicted where its probability reaches its threshold (k,). Average precision and F1 are averaged over
    the labels that have rows (macro); micro F1 is that of all decisions together. Intervals are those of ``evaluate``
    (report.py): a Bayesian bootstrap with one artificial row. This row has the rarest label, and all its labels are
    predicted wrongly or all correctly. Raises DataError for no rows, mismatched shapes, or NaN.
    """
    truth = np.asarray(y_true).astype(bool)
    values, cuts = np.asarray(probabilities, np.float64), np.asarray(thresholds, np.float64)
    if (
        truth.shape != values.shape
        or truth.ndim != 2
        or truth.shape[1] != len(classes)
        or cuts.shape != truth.shape[1:]
    ):
        raise DataError(
            f"label sets {truth.shape} and probabilities {values.shape} of {len(classes)} labels do not match"
        )
    if not len(truth):
        raise DataError("there are no rows to evaluate on")
    if not np.isfinite(values).all():
        raise DataError("probabilities must be finite")
    counts = truth.sum(axis=0, dtype=np.int64)
    if not counts.any():
        raise DataError("no held-out picture has one of the labels; hold out others")
    count = replicates if replicates is not None else int(np.clip(1e8 / max(1, values.size), 200, 1000))
    estimates, table = _bootstrap(truth, values, cuts, count, seed)
    missing = [name for name, support in zip(classes, counts.tolist(), strict=True) if not support]
    return LabelSetsReport(list(classes), cuts, len(truth), estimates, *table, counts, missing, count, seed)


class _Measurer:
    """Computes the measures for given row weights."""

    def __init__(self, truth: NDArray[np.bool_], values: Floats, cuts: Floats) -> None:
        predicted = values >= cuts
        # Sparse, because a picture has few of the labels: (labels, rows).
        self._true = csr_matrix(truth.T, dtype=np.float64)
        self._predicted = csr_matrix(predicted.T, dtype=np.float64)
        self._hits = self._true.multiply(self._predicted).tocsr()
        self._exact = (truth == predicted).all(axis=1).astype(np.float64)
        self._rankings = [Ranking(values[:, at], truth[:, at]) for at in range(truth.shape[1])]

    def by_label(self, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return average precision, precision, recall and F1 of each label, (m, k) each, for row weights (m, n).

        Average precision, recall and F1 are NaN for a label without rows.
        """
        hits, support, claimed = (self._sums(one, weights) for one in (self._hits, self._true, self._predicted))
        there = support > 0
        areas = np.stack([one.areas(weights)[1] for one in self._rankings], axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(claimed > 0, hits / claimed, 0.0)
            recall = np.where(there, hits / support, np.nan)
            f1 = np.where(there, 2 * hits / (support + claimed), np.nan)
        return np.where(there, areas, np.nan), precision, recall, f1

    def measure_each(self, weights: Floats, table: tuple[Floats, ...] | None = None) -> Floats:
        """Return the measures (m, 4), in the order of NAMES, for each of m row weightings (m, n).

        ``table``: the result of by_label for these weights, if it is known already.
        """
        average_precision, _, _, f1 = table or self.by_label(weights)
        hits, true, predicted = (
            self._sums(one, weights).sum(axis=1) for one in (self._hits, self._true, self._predicted)
        )
        found = {
            "mean_average_precision": np.nanmean(average_precision, axis=1),
            "macro_f1": np.nanmean(f1, axis=1),
            "micro_f1": 2 * hits / (true + predicted),
            "exact_match": weights @ self._exact / weights.sum(axis=1),
        }
        # Rounding can make a share slightly larger than 1.
        shares: Floats = np.minimum(np.stack([found[name] for name in NAMES], axis=1), 1.0)
        return shares

    @staticmethod
    def _sums(members: csr_matrix, weights: Floats) -> Floats:
        return np.asarray((members @ weights.T).T, np.float64)


def _bootstrap(
    truth: NDArray[np.bool_], values: Floats, cuts: Floats, count: int, seed: int
) -> tuple[dict[str, Estimate], tuple[Floats, Floats, Floats, Floats]]:
    """Return each measure with its 95 % interval, and four measures (k,) of each label, see _Measurer.by_label."""
    sizes = truth.sum(axis=0)
    rarest = int(np.lexsort((sizes, sizes == 0))[0])
    own = np.eye(truth.shape[1], dtype=bool)[rarest]
    # probabilities of 0 and 1: one row with only wrong predictions, one row with only correct predictions
    unseen = np.array([~own, own], np.float64)
    measurer = _Measurer(np.vstack([truth, own, own]), np.vstack([values, unseen]), cuts)
    seen = np.r_[np.ones(len(truth)), 0.0, 0.0][None]
    table = measurer.by_label(seen)
    point = measurer.measure_each(seen, table)[0].tolist()
    replicates = np.concatenate([
        np.stack([measurer.measure_each(weights) for weights in pair], axis=1)
        for pair in draws(len(truth), count, seed)
    ])  # fmt: skip
    estimates = {name: interval_of(point[place], replicates[:, :, place]) for place, name in enumerate(NAMES)}
    average_precision, precision, recall, f1 = (values[0] for values in table)
    return estimates, (average_precision, precision, recall, f1)
