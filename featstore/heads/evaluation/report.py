"""Evaluation of a head on held-out rows: each measure with a 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import defaults
from featstore.errors import DataError
from featstore.heads.calibration import rescale
from featstore.heads.evaluation.measures import (
    CALIBRATION_BINS,
    NAMES,
    ClassTable,
    Measurer,
    class_table,
    group_numbers,
    grouped_draws,
    unseen_rows,
)
from featstore.stats import wilson_interval
from featstore.text import natural

_TITLES: Final = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1", "log_loss": "log loss",
    "calibration_error": "calibration error (ECE)", "roc_auc": "ROC AUC (one vs rest)",
    "average_precision": "average precision",
}  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """The value of a measure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationBin:
    """A calibration bin: count, mean confidence and accuracy of the rows whose largest probability is in (low, high]."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Report:
    """Result of ``evaluate``. ``estimates``: values with intervals by the names in measures.NAMES.

    ``table``: precision, recall, F1 and support of each class, and the confusion matrix (rows: true classes).
    ``missing``: classes that have no row. ``groups``: number of groups of rows that count as one observation each in
    the intervals; None if every row is an observation.
    """

    headline: ClassVar[str] = "accuracy"
    classes: list[str]
    rows: int
    estimates: dict[str, Estimate]
    table: ClassTable
    missing: list[str]
    calibration: list[CalibrationBin]
    replicates: int
    seed: int
    groups: int | None = None

    @property
    def accuracy(self) -> Estimate:
        """Accuracy with Wilson's interval."""
        return self.estimates["accuracy"]

    def __repr__(self) -> str:
        one = self.accuracy
        return f"<Report: accuracy {one.value:.4f} [{one.low:.4f}, {one.high:.4f}] on {self.rows:,} rows, {len(self.classes):,} classes>"

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation report as JSON types; undefined values are None."""
        columns = (self.table.precision, self.table.recall, self.table.f1, self.table.support)
        drawn = "rows" if self.groups is None else "groups of rows"
        return {
            "rows": self.rows,
            "estimates": {
                name: {"value": json_number(e.value), "low": json_number(e.low), "high": json_number(e.high)}
                for name, e in self.estimates.items()
            },
            "classes": [
                {
                    "class": name,
                    "precision": json_number(p),
                    "recall": json_number(r),
                    "f1": json_number(f),
                    "support": int(s),
                }
                for name, p, r, f, s in zip(self.classes, *columns, strict=True)
            ],
            "confusion": self.table.confusion.astype(int).tolist(),
            "missing_classes": self.missing,
            "calibration": [
                {
                    "low": b.low,
                    "high": b.high,
                    "rows": b.rows,
                    "confidence": json_number(b.confidence),
                    "accuracy": json_number(b.accuracy),
                }
                for b in self.calibration
            ],
            "intervals": {
                "level": 0.95,
                "accuracy": "Wilson score interval",
                "others": f"Bayesian bootstrap over {drawn} and one row that was not seen, wrong or right",
                "log_loss": f"Bayesian bootstrap over {drawn}",
                **({} if self.groups is None else {"observations": self.groups}),
                "replicates": self.replicates,
                "seed": self.seed,
            },
        }

    def text(self) -> str:
        """Return the evaluation report as lines of text."""
        copies = "" if self.groups is None else f" ({self.groups:,} independent)"
        lines = [f"{self.rows:,} rows{copies}, {len(self.classes)} classes; figure [95 % interval]"]
        for name, estimate in self.estimates.items():
            lines.append(f"  {_TITLES[name]:<24} {estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]")
        if self.missing:
            lines.append(f"  no rows of {', '.join(self.missing)}: left out of the averages over classes")
        width = max(5, *(len(name) for name in self.classes))
        lines.append(f"  {'class':<{width}} precision  recall      F1  support")
        columns = (self.table.precision, self.table.recall, self.table.f1, self.table.support)
        for name, precision, recall, f1, support in zip(self.classes, *columns, strict=True):
            shown = "     -" if math.isnan(recall) else f"{recall:6.4f}"
            lines.append(f"  {name:<{width}} {precision:9.4f}  {shown}  {f1:6.4f}  {int(support):7,}")
        if len(self.classes) <= 20:
            lines += ["  confusion matrix (rows: true, columns: predicted)"]
            cell = max(5, len(str(int(self.table.confusion.max()))) + 1)
            for name, row in zip(self.classes, self.table.confusion.astype(int), strict=True):
                lines.append(f"  {name:<{width}} " + "".join(f"{count:>{cell}}" for count in row))
        return "\n".join(lines)


def evaluate(
    y_true: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[Any],
    *,
    groups: ArrayLike | None = None,
    replicates: int | None = None,
    seed: int = defaults.SEED,
) -> Report:
    """Return the Report on ``probabilities`` (n, k) of ``classes`` (k,) for the true labels ``y_true`` (n,).

    Accuracy has Wilson's score interval (Wilson 1927). The other measures have a Bayesian bootstrap interval over rows
    (Rubin 1981) with ``replicates`` resamples (default: 1,000; fewer, but at least 200, for more than 100,000
    probabilities). An artificial row, predicted wrongly or correctly, is added to every measure except log loss, so
    that the interval has a positive width even if every row is right (see measures.draws). Log loss is unbounded, so
    its interval cannot account for rows that differ much from the given rows. Averages over classes are macro averages
    over the classes that have rows. With ``groups`` (n,), the rows of a group count as one observation in the
    intervals, because copies of a picture are not independent: they get the same weight in the bootstrap, where an
    artificial row weighs as much as a group, and Wilson's interval is that of n^2 / sum(m^2) rows for groups of m rows
    (Kish 1965). The calibration error is defined as in Guo et al. (2017), with 15 bins of the largest probability.
    Raises DataError for no rows, mismatched shapes, NaN, or a label outside the classes.
    """
    names = [str(name) for name in classes]
    values = np.asarray(probabilities, np.float64)
    codes = codes_of(y_true, classes)
    if values.shape != (len(codes), len(names)):
        raise DataError(f"probabilities of shape {values.shape}, where ({len(codes)}, {len(names)}) are needed")
    if not len(codes):
        raise DataError("there are no rows to evaluate on")
    if not np.isfinite(values).all() or (values < 0).any():
        raise DataError("probabilities must be finite and at least 0")
    measurer = Measurer(codes, values)
    ones = np.ones(len(codes))
    table = class_table(codes, measurer.predicted, ones, len(names))
    count = replicates if replicates is not None else int(np.clip(1e8 / max(1, values.size), 200, 1000))
    unit = group_numbers(groups, len(codes))
    estimates = _bootstrap(codes, values, count, seed, unit)
    sizes = np.bincount(unit)
    low, high = wilson_interval(float(measurer.hits.mean()), len(codes) ** 2 / float(sizes @ sizes))
    estimates["accuracy"] = Estimate(estimates["accuracy"].value, low, high)
    missing = [name for name, support in zip(names, table.support, strict=True) if not support]
    independent = len(sizes) if len(sizes) < len(codes) else None
    return Report(names, len(codes), estimates, table, missing, _calibration(measurer), count, seed, independent)


def codes_of(y: ArrayLike, classes: Sequence[Any]) -> NDArray[np.intp]:
    """Return the class numbers (n,) of labels ``y``. Raises DataError for a label that is not in ``classes``.

    A label that is not a string is also looked up as ``str(label)``, because a TrainedHead's classes are strings.
    """
    known = {name: code for code, name in enumerate(classes)}
    labels = [label if label in known else str(label) for label in np.asarray(y).tolist()]
    unknown = sorted({label for label in labels if label not in known}, key=natural)
    if unknown:
        raise DataError(
            f"{len(unknown)} label(s) that the head does not know: {', '.join(unknown[:5])}; it knows "
            + ", ".join(str(name) for name in list(classes)[:10])
        )
    return np.array([known[label] for label in labels], np.intp)


def before_calibration(
    y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[Any], scale: float
) -> dict[str, float]:
    """Return calibration error and log loss as they would be without temperature scaling.

    ``probabilities`` (n, k): with temperature scaling; ``scale``: the factor of that scaling.
    Raises DataError for a label outside ``classes``.
    """
    codes = codes_of(y_true, classes)
    measured = Measurer(codes, rescale(np.asarray(probabilities, np.float64), 1 / scale)).measure(np.ones(len(codes)))
    return {name: measured[name] for name in ("calibration_error", "log_loss")}


def calibration_bins(y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[Any]) -> list[CalibrationBin]:
    """Return the bins of ``Report.calibration`` for ``probabilities`` (n, k) and labels (n,). Raises DataError for a
    label outside the classes.
    """
    return _calibration(Measurer(codes_of(y_true, classes), np.asarray(probabilities, np.float64)))


def worst_errors(y_true: ArrayLike, probabilities: ArrayLike, classes: Sequence[Any], count: int) -> NDArray[np.intp]:
    """Return up to ``count`` row numbers of wrong predictions, sorted by decreasing confidence."""
    values = np.asarray(probabilities, np.float64)
    predicted = values.argmax(axis=1)
    wrong = np.flatnonzero(predicted != codes_of(y_true, classes))
    confidence = values[wrong, predicted[wrong]]
    return np.asarray(wrong[np.argsort(-confidence, kind="stable")][:count], np.intp)


def _bootstrap(
    codes: NDArray[np.intp], probabilities: NDArray[np.float64], count: int, seed: int, unit: NDArray[np.intp]
) -> dict[str, Estimate]:
    """Return each measure's value with its bootstrap 95 % interval, which always contains the value.

    ``unit``: (n,) the group of each row; all rows of a group get the same weight.
    """
    more, their = unseen_rows(codes, probabilities)
    measurer = Measurer(np.r_[codes, more], np.r_[probabilities, their])
    replicates = np.concatenate([
        np.stack([_replicates(measurer, weights) for weights in pair], axis=1)
        for pair in grouped_draws(unit, count, seed)
    ])  # fmt: skip
    point = measurer.measure(np.r_[np.ones(len(codes)), 0.0, 0.0])
    estimates = {}
    for place, name in enumerate(NAMES):
        value = point[name]
        if math.isnan(value):
            estimates[name] = Estimate(value, math.nan, math.nan)
            continue
        estimates[name] = interval_of(value, replicates[:, :, place])
    return estimates


def _replicates(measurer: Measurer, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the measures (m, 7) for ``weights`` (m, n + 2); log loss is computed without the two artificial rows."""
    values, seen = measurer.measure_each(weights), weights[:, :-2]
    values[:, NAMES.index("log_loss")] = seen @ measurer.losses[:-2] / seen.sum(axis=1)
    return values


def interval_of(value: float, replicates: NDArray[np.float64]) -> Estimate:
    """Return ``value`` with the 95 % interval of its ``replicates`` (n, weightings), which always contains it."""
    low, high = np.nanquantile(replicates, [0.025, 0.975], axis=0)
    return Estimate(value, min(value, *low.tolist()), max(value, *high.tolist()))


def _calibration(measurer: Measurer) -> list[CalibrationBin]:
    bins = []
    for number in range(CALIBRATION_BINS):
        inside = measurer.bins == number
        rows = int(inside.sum())
        confidence = float(measurer.confidence[inside].mean()) if rows else math.nan
        accuracy = float(measurer.hits[inside].mean()) if rows else math.nan
        bins.append(
            CalibrationBin(number / CALIBRATION_BINS, (number + 1) / CALIBRATION_BINS, rows, confidence, accuracy)
        )
    return bins


def json_number(value: float) -> float | None:
    """Return ``value`` as JSON, None for NaN."""
    return None if math.isnan(value) else float(value)
