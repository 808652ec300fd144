"""The model of a multilayer perceptron for label sets: one sigmoid output and one threshold for each label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.checking import Checker
from featstore.heads.label_sets import checked_thresholds, sigmoid
from featstore.heads.network import NetworkModel

_ROUNDING: Final = 8 * np.finfo(np.float64).eps
"""Bound of the rounding error of a probability: a sigmoid of at most 1, computed in a few operations."""


@dataclass(frozen=True)
class NetworkSetsModel:
    """A row has label j if the sigmoid of output j of ``network`` is at least ``thresholds[j]``.

    ``network``: has one output for each label; its ``scale`` is 1 (no temperature scaling). ``thresholds``: (k,)
    float64 probabilities, between 0 and 1.
    """

    name: ClassVar[str] = "label-sets-network"
    keeps_rows: ClassVar[bool] = False
    network: NetworkModel
    thresholds: NDArray[np.float64]

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        return self.network.dimension

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.thresholds)

    @property
    def columns(self) -> int:
        """Number of decision values of a row."""
        return len(self.thresholds)

    def decide_block(self, block: NDArray[Any]) -> NDArray[np.float64]:
        """Return decision values (m, k) in float64. If only rounding decides whether a probability of a row reaches its
        threshold, the row is computed again alone. So the label set of a row does not depend on the batch.

        Raises DataError if a value is not finite.
        """
        return self.network.decide_again(block, self._close)

    def _close(self, decisions: NDArray[np.float64], rounding: NDArray[np.float64]) -> NDArray[np.bool_]:
        # The slope of the sigmoid is below 1, so a probability changes by less than its decision value.
        distance = np.abs(sigmoid(decisions) - self.thresholds)
        return np.asarray((distance <= rounding[:, None] + _ROUNDING).any(axis=1))

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probability of each label (m, k); the probabilities of a row do not sum to 1."""
        return sigmoid(decisions)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return weights and biases of each layer, the scaler and the thresholds."""
        return {**self.network.arrays(), "thresholds": self.thresholds}

    def numbers(self) -> dict[str, Any]:
        """Return the scalar of the model: the number of layers."""
        return {"layers": len(self.network.weights)}

    @classmethod
    def restore(cls, check: Checker, labels: int) -> NetworkSetsModel:
        """Return the model for ``labels`` labels from the arrays of a file. Raises DamagedError if the arrays do not
        fit.
        """
        return cls(NetworkModel.restore(check, labels, scale=1.0), checked_thresholds(check, labels))
