"""Evaluation of a head that predicts label sets, on held-out rows: each measure with a 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    measured = _Measurer(truth, values, cuts)
    ones = np.ones(len(truth))
    table, point = measured.by_label(ones), measured.measure(ones)
    estimates = _bootstrap(truth, values, cuts, point, count, seed)
    missing = [name for name, support in zip(classes, counts.tolist(), strict=True) if not support]
    return LabelSetsReport(list(classes), cuts, len(truth), estimates, *table, counts, missing, count, seed)


class _Measurer:
    """Computes the measures for given row weights."""

    def __init__(self, truth: NDArray[np.bool_], values: Floats, cuts: Floats) -> None:
        predicted = values >= cuts
        self._true = np.asarray(truth, np.float64)
        self._predicted = np.asarray(predicted, np.float64)
        self._hits = self._true * self._predicted
        self._exact = (truth == predicted).all(axis=1).astype(np.float64)
        self._rankings = [Ranking(values[:, at], truth[:, at]) for at in range(truth.shape[1])]

    def by_label(self, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return average precision, precision, recall and F1 of each label (k,); NaN for a label without rows."""
        hits, support, claimed = weights @ self._hits, weights @ self._true, weights @ self._predicted
        there = (support > 0).tolist()
        curves = [one.areas(weights)[1] if known else np.nan for one, known in zip(self._rankings, there, strict=True)]
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(claimed > 0, hits / claimed, 0.0)
            recall = np.where(support > 0, hits / support, np.nan)
            f1 = np.where(support > 0, 2 * hits / (support + claimed), np.nan)
        return np.array(curves), precision, recall, f1

    def measure(self, weights: Floats) -> dict[str, float]:
        """Compute all measures whose names are in NAMES."""
        average_precision, _, _, f1 = self.by_label(weights)
        hits, both = weights @ self._hits, weights @ (self._true + self._predicted)
        found = {
            "mean_average_precision": np.nanmean(average_precision),
            "macro_f1": np.nanmean(f1),
            "micro_f1": 2 * hits.sum() / both.sum(),
            "exact_match": weights @ self._exact / weights.sum(),
        }
        # Rounding can make a share slightly larger than 1.
        return {name: min(float(value), 1.0) for name, value in found.items()}


def _bootstrap(
    truth: NDArray[np.bool_], values: Floats, cuts: Floats, point: dict[str, float], count: int, seed: int
) -> dict[str, Estimate]:
    """Return each measure's value (``point``) with its 95 % interval."""
    sizes = truth.sum(axis=0)
    rarest = int(np.lexsort((sizes, sizes == 0))[0])
    own = np.eye(truth.shape[1], dtype=bool)[rarest]
    # probabilities of 0 and 1: one row with only wrong predictions, one row with only correct predictions
    unseen = np.array([~own, own], np.float64)
    measurer = _Measurer(np.vstack([truth, own, own]), np.vstack([values, unseen]), cuts)
    drawn = [[list(measurer.measure(weights).values()) for weights in pair] for pair in draws(len(truth), count, seed)]
    replicates = np.array(drawn)  # (number of replicates, 2 weightings, number of measures)
    return {name: interval_of(point[name], replicates[:, :, place]) for place, name in enumerate(NAMES)}
