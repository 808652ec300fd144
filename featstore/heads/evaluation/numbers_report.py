"""Evaluation of a head that predicts numbers, on held-out rows: each measure with a 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import ArrayLike

from featstore import defaults
from featstore.errors import DataError
from featstore.heads.evaluation.measures import Floats
from featstore.heads.evaluation.report import Estimate, interval_of, json_number

TITLES: Final = {"r2": "R2", "mae": "mean absolute error", "rmse": "root mean squared error"}


@dataclass(frozen=True)
class NumbersReport:
    """Result of evaluate_numbers. ``estimates``: r2, mae and rmse with intervals.

    ``mean`` and ``deviation``: mean and standard deviation of the true numbers. Always predicting the mean gives an R2
    of 0.
    """

    headline: ClassVar[str] = "r2"
    titles: ClassVar[dict[str, str]] = TITLES
    rows: int
    estimates: dict[str, Estimate]
    mean: float
    deviation: float
    replicates: int
    seed: int

    def __repr__(self) -> str:
        one = self.estimates["r2"]
        return f"<NumbersReport: R2 {one.value:.4f} [{one.low:.4f}, {one.high:.4f}] on {self.rows:,} rows>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types; undefined values are None."""
        return {
            "rows": self.rows,
            "estimates": {
                name: {"value": json_number(e.value), "low": json_number(e.low), "high": json_number(e.high)}
                for name, e in self.estimates.items()
            },
            "target": {"mean": self.mean, "standard_deviation": self.deviation},
            "intervals": {
                "level": 0.95,
                "method": "Bayesian bootstrap over rows",
                "replicates": self.replicates,
                "seed": self.seed,
            },
        }

    def text(self) -> str:
        """Return the report as lines of text."""
        lines = [
            f"{self.rows:,} rows, target {self.mean:.4g} on average, standard deviation {self.deviation:.4g}; "
            "figure [95 % interval]"
        ]
        for name, one in self.estimates.items():
            lines.append(f"  {TITLES[name]:<24} {one.value:.4g} [{one.low:.4g}, {one.high:.4g}]")
        return "\n".join(lines)


def evaluate_numbers(
    y_true: ArrayLike, predicted: ArrayLike, *, replicates: int = 1000, seed: int = defaults.SEED
) -> NumbersReport:
    """Return the report on ``predicted`` (n,) for the true numbers ``y_true`` (n,).

    The intervals are those of a Bayesian bootstrap over rows (Rubin 1981). Errors are unbounded, so the intervals
    cannot account for rows that differ much from the given rows. Raises DataError for fewer than two rows, equal true
    numbers, NaN, or mismatched shapes.
    """
    truth, values = np.asarray(y_true, np.float64), np.asarray(predicted, np.float64)
    if truth.shape != values.shape or truth.ndim != 1:
        raise DataError(f"true numbers {truth.shape} and predictions {values.shape} do not match")
    if len(truth) < 2:
        raise DataError(f"{len(truth):,} row(s) to evaluate on; R2 needs two")
    if not (np.isfinite(truth).all() and np.isfinite(values).all()):
        raise DataError("numbers to evaluate must be finite")
    if not np.ptp(truth) > 0:
        raise DataError("all held-out pictures have the same number, so R2 is undefined; hold out others")
    random = np.random.default_rng(seed)
    point = _measure(truth, values, np.ones(len(truth)))
    drawn = np.array([_measure(truth, values, random.standard_exponential(len(truth))) for _ in range(replicates)])
    estimates = {name: interval_of(point[at], drawn[:, at, None]) for at, name in enumerate(TITLES)}
    return NumbersReport(len(truth), estimates, float(truth.mean()), float(truth.std()), replicates, seed)


def _measure(truth: Floats, values: Floats, weights: Floats) -> list[float]:
    """Return R2, mean absolute error and root mean squared error under row weights (n,)."""
    shares = weights / weights.sum()
    errors = values - truth
    squared = float(shares @ errors**2)
    variance = float(shares @ (truth - shares @ truth) ** 2)
    return [1 - squared / variance, float(shares @ np.abs(errors)), float(np.sqrt(squared))]
