"""Learning curve: held-out accuracy as a function of the number of training rows.

The curve is used to estimate how much more training data would help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import defaults, splits
from featstore.blocks import Features
from featstore.errors import DataError
from featstore.heads.evaluation.report import codes_of
from featstore.heads.headfile import TrainedHead
from featstore.heads.solvers.blocks import take_rows
from featstore.heads.trainer import texts, train_head
from featstore.stats import wilson_interval

_FRACTIONS: Final = (0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class CurvePoint:
    """A point of the curve: held-out accuracy of heads trained on ``rows`` rows.

    ``accuracy``: mean over ``repeats`` heads; ``low``, ``high``: Wilson's 95 % interval of this mean, which covers the
    uncertainty from the held-out rows; ``deviation``: standard deviation between the repeats.
    """

    rows: int
    accuracy: float
    low: float
    high: float
    deviation: float
    repeats: int


@dataclass(frozen=True)
class LearningCurve:
    """A learning curve: its points, and an extrapolation to more rows.

    ``error_at_double``: expected error for twice as many rows as the last point has; from a fit of ``error = floor +
    scale * rows**-exponent``. None with fewer than three points or if the fit fails.
    """

    points: list[CurvePoint]
    error_at_double: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the learning curve as JSON types."""
        return {
            "points": [{name: getattr(p, name) for name in p.__dataclass_fields__} for p in self.points],
            "error_at_double": self.error_at_double,
        }


def learning_curve(
    X: Features,
    y: ArrayLike,
    test_X: NDArray[Any],
    test_y: ArrayLike,
    *,
    kind: str = "logreg",
    C: float | str = "auto",
    groups: ArrayLike | None = None,
    fractions: Sequence[float] = _FRACTIONS,
    repeats: int = 3,
    seed: int = defaults.SEED,
    **options: Any,
) -> LearningCurve:
    """Train on nested stratified subsets of ``X`` (n, d), ``y`` (n,) and score each on ``test_X``, ``test_y``.

    For each fraction below 1, ``repeats`` subsets are drawn; no group is split. Subsets with fewer than two rows of a
    class are skipped. Raises DataError if no subset is left, and the errors of train_head.
    """
    labels = texts(y)
    group_array = None if groups is None else np.asarray(groups)
    truth = texts(test_y).tolist()
    points = []
    for fraction in sorted(fractions):
        scores, rows = [], 0
        for repeat in range(repeats if fraction < 1 else 1):
            part = _part(labels, group_array, fraction, seed + repeat)
            if part is None:
                continue
            chosen = None if group_array is None else group_array[part]
            head = train_head(
                take_rows(X, part), labels[part], kind=kind, C=C, groups=chosen, seed=seed + repeat, **options
            )
            scores.append(_accuracy(head, test_X, truth))
            rows = len(part)
        if scores:
            mean = float(np.mean(scores))
            low, high = wilson_interval(round(mean * len(truth)) / len(truth), len(truth))
            points.append(CurvePoint(rows, mean, low, high, float(np.std(scores)), len(scores)))
    if not points:
        raise DataError("too few rows of each class for a learning curve")
    return LearningCurve(points, _extrapolate(points))


def _part(labels: NDArray[Any], groups: NDArray[Any] | None, fraction: float, seed: int) -> NDArray[np.intp] | None:
    """Return the sorted row numbers of a stratified subset, or None if a class would have fewer than two rows."""
    if fraction >= 1:
        return np.arange(len(labels))
    try:
        _, part = splits.held_out(labels, groups=groups, fraction=fraction, seed=seed)
        splits.require_two_of_each(labels[part], None if groups is None else groups[part])
    except DataError:
        return None
    return part if len(np.unique(labels[part])) == len(np.unique(labels)) else None


def _accuracy(head: TrainedHead, X: NDArray[Any], truth: list[str]) -> float:
    codes = codes_of(truth, head.classes)
    return float(np.mean(head.predict(X) == np.array(head.classes)[codes]))


def _extrapolate(points: list[CurvePoint]) -> float | None:
    """Fit a power law to the points (Hestness et al. 2017); return its error at twice the rows of the last point.

    Returns None with fewer than three points or if the fit fails.
    """
    from scipy.optimize import curve_fit

    if len(points) < 3:
        return None
    rows = np.array([p.rows for p in points], np.float64) / points[-1].rows
    errors = 1 - np.array([p.accuracy for p in points])

    def law(x: NDArray[np.float64], floor: float, scale: float, exponent: float) -> NDArray[np.float64]:
        return np.asarray(floor + scale * x**-exponent)

    start = (errors[-1] / 2, max(errors[-1] / 2, 1e-6), 0.5)
    try:
        found, _ = curve_fit(law, rows, errors, p0=start, bounds=([0, 0, 0], [1, 1, 2]))
    except (RuntimeError, ValueError):
        return None
    return float(np.clip(law(np.array([2.0]), *found)[0], 0, 1))
