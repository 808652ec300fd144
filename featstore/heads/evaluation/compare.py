"""Compare two heads on the same rows by a paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import defaults
from featstore.errors import DataError
from featstore.heads.evaluation.measures import NAMES, Measurer
from featstore.heads.evaluation.report import codes_of

_REPLICATES: Final = 1000


@dataclass(frozen=True)
class Difference:
    """One measure of heads A and B on the same rows.

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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def compare(
    y_true: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    classes: Sequence[Any],
    *,
    measures: Sequence[str] = ("accuracy", "balanced_accuracy", "log_loss"),
    groups: ArrayLike | None = None,
    replicates: int = _REPLICATES,
    seed: int = defaults.SEED,
) -> list[Difference]:
    """Compare two sets of probabilities (n, k) for the same rows by a paired percentile bootstrap.

    Each replicate draws the same rows for both heads (Efron and Tibshirani 1993). With ``groups`` (n,) it draws whole
    groups, because copies of a picture are not independent observations. The p-value is twice the share of replicates
    on the rarer side of zero, and at least 1 / replicates.
    Raises DataError: mismatched shapes, unknown measures or labels, no rows.
    """
    unknown = [name for name in measures if name not in NAMES]
    if unknown:
        raise DataError(f"unknown measure {unknown[0]!r}; choose from {', '.join(NAMES)}")
    codes = codes_of(y_true, classes)
    a, b = (_probabilities(values, len(codes), len(classes)) for values in (probabilities_a, probabilities_b))
    measurers = Measurer(codes, a), Measurer(codes, b)
    drawn = np.array([
        [_gap(measurers, weights, name) for name in measures]
        for weights in _resamples(len(codes), groups, replicates, seed)
    ])  # fmt: skip
    ones = np.ones(len(codes))
    first, second = (measurer.measure(ones) for measurer in measurers)
    return [_difference(name, first[name], second[name], drawn[:, i]) for i, name in enumerate(measures)]


def _probabilities(values: ArrayLike, rows: int, classes: int) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.shape != (rows, classes) or not rows:
        raise DataError(f"probabilities of shape {array.shape}, where ({rows}, {classes}) are needed for both heads")
    if not np.isfinite(array).all():
        raise DataError("probabilities must be finite")
    return array


def _resamples(rows: int, groups: ArrayLike | None, replicates: int, seed: int) -> Any:
    """Yield bootstrap resamples as row weights (n,): how often each row was drawn."""
    random = np.random.default_rng(seed)
    unit = np.arange(rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(unit.max()) + 1
    for _ in range(replicates):
        yield np.bincount(random.integers(0, count, count), minlength=count).astype(np.float64)[unit]


def _gap(measurers: tuple[Measurer, Measurer], weights: NDArray[np.float64], name: str) -> float:
    a, b = measurers
    return b.measure(weights)[name] - a.measure(weights)[name]


def _difference(name: str, a: float, b: float, drawn: NDArray[np.float64]) -> Difference:
    there = drawn[~np.isnan(drawn)]
    if not len(there):
        raise DataError(f"{name} does not exist on these rows; compare another measure")
    low, high = np.quantile(there, [0.025, 0.975])
    tail = min(float((there <= 0).mean()), float((there >= 0).mean()))
    p_value = min(1.0, max(2 * tail, 1 / len(there)))
    return Difference(name, a, b, b - a, float(low), float(high), p_value)
