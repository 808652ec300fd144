"""Model of a multilayer perceptron, which predicts with numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.heads.calibration import softmax
from featstore.heads.checking import Checker
from featstore.heads.rowwise import margins, require_finite, row_dots, row_products
from featstore.heads.solvers.blocks import Scaler

MOST_LAYERS: Final = 9
"""Largest number of layers: eight hidden ones and the output."""
Close = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
"""A function of decision values (m, c) and of bounds (m,) on twice the rounding error of the difference of two of them.
It returns whether rounding could change the prediction of each row (m,)."""
_LARGEST_WEIGHT: Final = 1e20
"""Largest weight in an untrusted file. Nine layers with such weights cannot overflow float64."""


@dataclass(frozen=True)
class NetworkModel:
    """Linear layers with ReLU between them, on standardised features; dropout acts only in training.

    ``weights``: one (outputs, inputs) float32 array per layer, as in torch.nn.Linear; ``biases``: (outputs,) float32.
    The last layer has one output for two classes, else k. ``mean``, ``spread``: (d,) of the scaler. ``scale``
    multiplies decision values before the sigmoid or softmax.
    """

    name: ClassVar[str] = "network"
    keeps_rows: ClassVar[bool] = False
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    scale: float = 1.0
    _layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...] = field(init=False, repr=False, compare=False)
    _norms: tuple[tuple[float, float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        layers = tuple(
            (np.ascontiguousarray(weight.T, np.float64), bias.astype(np.float64))
            for weight, bias in zip(self.weights, self.biases, strict=True)
        )
        object.__setattr__(self, "_layers", layers)
        norms = tuple((float(np.linalg.norm(weight)), float(np.linalg.norm(bias))) for weight, bias in layers)
        object.__setattr__(self, "_norms", norms)

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        return len(self.mean)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return max(2, len(self.biases[-1]))

    def decide_block(self, block: NDArray[Any]) -> NDArray[np.float64]:
        """Return decision values (m, c) in float64. If the two best classes of a row differ only by rounding, the row
        is computed again alone.

        Raises DataError if a value is not finite.
        """
        return self.decide_again(block, lambda decisions, rounding: margins(decisions) <= rounding)

    def decide_again(self, block: NDArray[Any], close: Close) -> NDArray[np.float64]:
        """Return decision values (m, c) in float64. Rows for which ``close`` returns True are computed again alone.

        Raises DataError if a value is not finite.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            values = Scaler(self.mean, self.spread).apply(block).astype(np.float64, copy=False)
            decisions = self._decide(values, np.matmul)
        require_finite(decisions)
        again = np.flatnonzero(close(decisions, 4 * self._rounding(values)))
        if len(again):
            decisions[again] = self._decide(values[again], row_products)
        return decisions

    def _decide(self, values: NDArray[np.float64], multiply: Any) -> NDArray[np.float64]:
        for number, (weight, bias) in enumerate(self._layers):
            values = multiply(np.maximum(values, 0) if number else values, weight) + bias
        return np.asarray(values)

    def _rounding(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a bound (m,) of the rounding error of each row's decision values.

        The error of an inner product of n terms is at most n units in the last place of the sum of absolute products
        (Higham 2002, section 3.1). Cauchy's inequality bounds this sum by the norms. ReLU does not enlarge an error.
        """
        size = np.sqrt(row_dots(values, values))
        error = np.zeros_like(size)
        for (weight, _), (steepest, offset) in zip(self._layers, self._norms, strict=True):
            reached = size * steepest + offset
            error = error * steepest + (len(weight) + 2) * np.finfo(np.float64).eps * reached
            size = reached
        return np.asarray(error)

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the class probabilities (m, k) for the decision values of m rows."""
        return softmax(decisions, self.scale)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return weights and biases of each layer, and the scaler."""
        layers: dict[str, NDArray[Any]] = {}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            layers |= {f"weights_{number}": weight, f"biases_{number}": bias}
        return {**layers, "mean": self.mean, "spread": self.spread}

    def numbers(self) -> dict[str, Any]:
        """Return the scalars of the model: the number of layers, and the factor of temperature scaling."""
        return {"layers": len(self.weights), "scale": self.scale}

    @classmethod
    def restore(cls, check: Checker, columns: int, scale: float | None = None) -> NetworkModel:
        """Return the model from its checked arrays. Raises DamagedError if they do not fit together.

        ``columns``: outputs of the last layer; ``scale``: factor of temperature scaling, None: as in the file.
        """
        layers = check.number("layers")
        if layers not in range(2, MOST_LAYERS + 1):
            raise DamagedError(f"{check.origin}: its number layers is not between 2 and {MOST_LAYERS}")
        weights: list[NDArray[np.float32]] = []
        biases: list[NDArray[np.float32]] = []
        width = None
        for number in range(int(layers)):
            outputs = columns if number == layers - 1 else None
            weights.append(check.matrix(f"weights_{number}", np.float32, outputs, width))
            width = len(weights[-1])
            biases.append(check.vector(f"biases_{number}", np.float32, width))
        if max(_largest(weights), _largest(biases)) > _LARGEST_WEIGHT:
            raise DamagedError(f"{check.origin}: its weights are greater than {_LARGEST_WEIGHT:g}")
        mean = check.vector("mean", np.float64, weights[0].shape[1])
        spread = check.vector("spread", np.float64, len(mean), positive=True)
        factor = check.number("scale") if scale is None else scale
        return cls(tuple(weights), tuple(biases), mean, spread, factor)


def _largest(arrays: Sequence[NDArray[np.float32]]) -> float:
    return max(float(np.abs(array).max()) for array in arrays)
