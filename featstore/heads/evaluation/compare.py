"""Compare two heads on the same rows by a paired Bayesian bootstrap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import defaults
from featstore.errors import DataError
from featstore.heads.evaluation.measures import NAMES, Measurer, group_numbers, grouped_draws, unseen_rows
from featstore.heads.evaluation.report import codes_of

_REPLICATES: Final = 1000
NO_DIFFERENCE: Final = "no measurable difference"
_FALLING: Final = ("log_loss", "calibration_error")
"""Measures for which a smaller value is better."""


@dataclass(frozen=True)
class Difference:
    """Comparison of heads A and B by one measure on the same rows.

    ``difference`` is B - A with its 95 % interval (``low``, ``high``); ``p_value`` is two-sided, for the hypothesis of
    no difference.
    """

    measure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def verdict(self) -> str:
        """Whether head B is "better" or "worse"; "no measurable difference" if the interval contains 0."""
        if self.low <= 0 <= self.high:
            return NO_DIFFERENCE
        return "better" if (self.difference > 0) != (self.measure in _FALLING) else "worse"

    def points(self) -> str:
        """Return the difference and its interval in percentage points, such as +1.3 points [-0.4, +3.1]."""
        value, low, high = (100 * each for each in (self.difference, self.low, self.high))
        return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"

    def to_dict(self) -> dict[str, Any]:
        """Return the compared measure, the difference, its interval and p-value as JSON types."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def compare(
    y_true: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    classes: Sequence[Any],
    *,
    measures: Sequence[str] = ("accuracy", "balanced_accuracy", "log_loss"),
    groups: ArrayLike | None = None,
    runs: ArrayLike | None = None,
    replicates: int = _REPLICATES,
    seed: int = defaults.SEED,
) -> list[Difference]:
    """Compare two sets of probabilities (n, k) for the same rows by a paired Bayesian bootstrap.

    Each bootstrap replicate uses the same random row weights for heads A and B (Rubin 1981). With ``groups`` (n,), the
    rows of a group get the same weight, because copies of a picture are not independent observations. ``runs`` (n,):
    the number of the training run from which each row comes, if heads were trained several times with different seeds.
    The groups are then the pictures, on which all runs are judged. The weight of a row is the weight of its group times
    the weight of its run, so the interval covers other pictures and other seeds (A. Owen and D. Eckles, Annals of
    Applied Statistics 2012). They show that such an interval is rather too wide; with very few runs it is too narrow.
    An artificial row, on which only one of the heads is right, is added to every measure except log loss. Without it,
    the interval of two equal heads would have no width (see measures.draws). The p-value is twice the smaller of two
    shares: of replicates with a difference <= 0, and of replicates with a difference >= 0. It is at least 1 /
    replicates. Raises DataError for mismatched shapes, unknown measures or labels, or no rows.
    """
    unknown = [name for name in measures if name not in NAMES]
    if unknown:
        raise DataError(f"unknown measure {unknown[0]!r}; choose from {', '.join(NAMES)}")
    codes = codes_of(y_true, classes)
    a, b = (_probabilities(values, len(codes), len(classes)) for values in (probabilities_a, probabilities_b))
    more, (wrong, right) = unseen_rows(codes, a)
    codes = np.r_[codes, more]
    measurers = Measurer(codes, np.r_[a, [right, wrong]]), Measurer(codes, np.r_[b, [wrong, right]])
    drawn = np.concatenate([
        np.stack([_gaps(measurers, weights, measures) for weights in pair], axis=1)
        for pair in _draws(len(a), groups, runs, replicates, seed)
    ])  # fmt: skip
    seen = np.r_[np.ones(len(a)), 0.0, 0.0]
    first, second = (measurer.measure(seen) for measurer in measurers)
    return [_difference(name, first[name], second[name], drawn[:, :, i]) for i, name in enumerate(measures)]


def _probabilities(values: ArrayLike, rows: int, classes: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != (rows, classes) or not rows:
        raise DataError(f"probabilities of shape {array.shape}, where ({rows}, {classes}) are needed for both heads")
    if not np.isfinite(array).all():
        raise DataError("probabilities must be finite")
    return array


def _draws(
    rows: int, groups: ArrayLike | None, runs: ArrayLike | None, replicates: int, seed: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield blocks of random weights (m, n + 2) as measures.grouped_draws does.

    With ``runs`` (n,), each weight is multiplied by a random weight of the row's run. An artificial row counts as a
    picture in every run.
    """
    run = np.zeros(rows, np.intp) if runs is None else np.unique(np.asarray(runs), return_inverse=True)[1]
    random, several = np.random.default_rng([seed, 1]), int(run.max()) + 1
    for first, second in grouped_draws(group_numbers(groups, rows), replicates, seed):
        factors = random.standard_exponential((len(first), several)) if several > 1 else np.ones((len(first), 1))
        # grouped_draws counts an artificial row once for each run, so only the mean factor of the runs is left.
        together = factors.mean(axis=1, keepdims=True)
        factor = np.hstack([factors[:, run], together, together])
        yield first * factor, second * factor


def _gaps(
    measurers: tuple[Measurer, Measurer], weights: NDArray[np.float64], measures: Sequence[str]
) -> NDArray[np.float64]:
    """Return the differences (m, measures), head B minus head A, for row weights (m, n); log loss is computed without
    the artificial rows (unseen_rows).
    """
    a, b = (measurer.measure_each(weights) for measurer in measurers)
    gaps = b - a
    seen, (first, second) = weights[:, :-2], measurers
    gaps[:, NAMES.index("log_loss")] = seen @ (second.losses - first.losses)[:-2] / seen.sum(axis=1)
    return gaps[:, [NAMES.index(name) for name in measures]]


def _difference(name: str, a: float, b: float, drawn: NDArray[np.float64]) -> Difference:
    """Return the Difference of the measure ``name``, with interval and p-value from the replicates ``drawn``.

    ``drawn``: (replicates, 2) differences B - A. Only A is right on the artificial row in column 0, only B in column 1.
    """
    if np.isnan(drawn).any():
        raise DataError(f"{name} does not exist on these rows; compare another measure")
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    tail = min((drawn <= 0).mean(axis=0).max(), (drawn >= 0).mean(axis=0).max())
    p_value = min(1.0, max(2 * float(tail), 1 / len(drawn)))
    return Difference(name, a, b, b - a, float(low.min()), float(high.max()), p_value)
