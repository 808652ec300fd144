"""The model of a linear head that predicts label sets: a logistic regression and a threshold for each label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.heads.checking import Checker
from featstore.heads.rowwise import row_products

_LEAST: Final = 1e-9
"""Smallest threshold, and smallest distance of a threshold to 1."""


@dataclass(frozen=True)
class LabelSetsModel:
    """One-vs-rest logistic regression: row ``x`` has label j if ``sigmoid(x @ coef[j] + intercept[j]) >= thresholds[j]``.

    ``coef``: (k, d) float64, for raw (not standardised) features; ``intercept``: (k,) float64; ``thresholds``: (k,)
    float64 probabilities, between 0 and 1.
    """

    name: ClassVar[str] = "label-sets"
    keeps_rows: ClassVar[bool] = False
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    _double: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _single: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_double", np.ascontiguousarray(self.coef.T))
        object.__setattr__(self, "_single", np.ascontiguousarray(self.coef.T, np.float32))

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        return int(self.coef.shape[1])

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.coef)

    @property
    def columns(self) -> int:
        """Number of decision values of a row."""
        return len(self.coef)

    def decide_block(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return decision values (m, k), float64 for float64 features and float32 otherwise."""
        if block.dtype == np.float64:
            return row_products(block, self._double) + self.intercept
        return row_products(block, self._single) + self.intercept.astype(np.float32)

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of each label (m, k); the probabilities of a row do not sum to 1."""
        return sigmoid(decisions)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return coefficients, intercepts and thresholds."""
        return {"coef": self.coef, "intercept": self.intercept, "thresholds": self.thresholds}

    def numbers(self) -> dict[str, Any]:
        """Return an empty dict: the model has no scalars."""
        return {}

    @classmethod
    def restore(cls, check: Checker, labels: int) -> LabelSetsModel:
        """Return the model for ``labels`` labels from the arrays of a file. Raises DamagedError if the arrays do not
        fit.
        """
        coef = check.matrix("coef", np.float64, labels, None)
        return cls(coef, check.vector("intercept", np.float64, labels), checked_thresholds(check, labels))


def checked_thresholds(check: Checker, labels: int) -> NDArray[np.float64]:
    """Return the array ``thresholds`` (labels,) of a file. Raises DamagedError unless its values lie between 0 and 1."""
    thresholds = check.vector("thresholds", np.float64, labels, positive=True)
    if not (thresholds < 1).all():
        raise DamagedError(f"{check.origin}: its array thresholds holds values that are not below 1")
    return thresholds


def sigmoid(decisions: NDArray[Any]) -> NDArray[np.float64]:
    """Return the logistic function of decision values of any shape, in float64 and without overflow."""
    z = decisions.astype(np.float64)
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def best_thresholds(decisions: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return best_threshold (k,) of each label; ``decisions`` and ``truth``: (n, k)."""
    return np.array([best_threshold(values, positive) for values, positive in zip(decisions.T, truth.T, strict=True)])


def best_threshold(decisions: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    """Return the threshold of a label's probability that maximises F1 on the given rows.

    ``decisions``: (n,) decision values of rows that the model was not trained on; ``positive``: (n,) whether a row has
    the label. Candidates lie in the middle between neighbouring decision values; among equally good candidates, the one
    nearest to 0.5 is chosen. Without a positive row the threshold is 0.5.
    """
    if not positive.any():
        return 0.5
    order = np.argsort(-decisions, kind="stable")
    ranked = decisions[order].astype(np.float64)
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(positive[order])[ends]
    f1 = 2 * hits / (ends + 1 + int(positive.sum()))
    below = np.append(ranked[ends[:-1] + 1], ranked[-1] - 1.0)
    middles = (ranked[ends] + below) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    middle = middles[best[np.argmin(np.abs(middles[best]))]]
    return float(np.clip(sigmoid(np.asarray(middle)), _LEAST, 1 - _LEAST))
