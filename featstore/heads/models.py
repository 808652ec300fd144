"""Models of trained heads: they compute decision values and probabilities from features with numpy alone.

A model consists of arrays and a few scalars, so it can be saved without pickle. Estimators and loaded heads run the
same code, so their predictions are bit-identical on one machine.

The predicted class of a row does not depend on the other rows of the batch (see rowwise.py). A linear model multiplies
each row separately. A kernel is computed in float64; if the two best classes of a row differ only by rounding, this row
is computed again separately. Neighbours are ranked by float64 inner products, each computed separately.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features
from featstore.errors import DamagedError
from featstore.heads.calibration import softmax
from featstore.heads.checking import Checker
from featstore.heads.label_sets import LabelSetsModel
from featstore.heads.network import NetworkModel
from featstore.heads.network_sets import NetworkSetsModel
from featstore.heads.numbers import NumbersModel
from featstore.heads.rowwise import margins, nearest, rbf_of_products, require_finite, row_products, unit_rows
from featstore.heads.solvers.blocks import Scaler, iterate
from featstore.heads.wrapped import EstimatorModel

_CLOSE: Final = 1e-9
"""For kernel models: two decision values of a row count as equal if their difference, divided by the largest possible
decision value of the model, is below this number. Rounding errors are far smaller: below 1e-11 for 10,000 features."""


class Model(Protocol):
    """Interface of all models, which compute decision values and probabilities from features."""

    name: ClassVar[str]
    keeps_rows: ClassVar[bool]
    """Whether the model contains training rows, so that erasing a row requires changing the model."""

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes k."""
        ...

    def decide_block(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return decision values (m, c) of a block (m, d) of finite values; c is 1 for two classes, else k."""
        ...

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return probabilities (m, k) from decision values (m, c)."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the model."""
        ...

    def numbers(self) -> dict[str, Any]:
        """Return the scalars of the model, as JSON types."""
        ...


def decide(model: Model, X: Features) -> NDArray[Any]:
    """Return decision values (n, c) of all rows of an array or block source. Raises the DataErrors of ``iterate``."""
    parts = list(decide_blocks(model, X))
    if not parts:
        columns = getattr(model, "columns", 1 if model.classes == 2 else model.classes)
        return np.zeros((0, columns), np.float32)
    return np.concatenate(parts)


def decide_blocks(model: Model, X: Features) -> Iterator[NDArray[Any]]:
    """Yield decision values (m, c), block by block. Raises the DataErrors of ``iterate``."""
    for block in iterate(X):
        yield model.decide_block(block)


@dataclass(frozen=True)
class LinearModel:
    """Linear model: decision values are ``x @ coef.T + intercept`` for raw (not standardised) features ``x``.

    ``coef``: (c, d) float64; ``intercept``: (c,) float64; ``scale`` multiplies decision values before the sigmoid or
    softmax (1: no change).
    """

    name: ClassVar[str] = "linear"
    keeps_rows: ClassVar[bool] = False
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    scale: float = 1.0
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
        """Number of classes."""
        return max(2, len(self.coef))

    def decide_block(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return decision values (m, c), float64 for float64 features and float32 otherwise."""
        if block.dtype == np.float64:
            return row_products(block, self._double) + self.intercept
        return row_products(block, self._single) + self.intercept.astype(np.float32)

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the class probabilities (m, k) for the decision values of m rows."""
        return softmax(decisions, self.scale)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the coefficients ``coef`` (c, d) and the intercepts ``intercept`` (c,)."""
        return {"coef": self.coef, "intercept": self.intercept}

    def numbers(self) -> dict[str, Any]:
        """Return the factor of temperature scaling."""
        return {"scale": self.scale}


@dataclass(frozen=True)
class KernelModel:
    """RBF model: decision values are ``sum_l coef[:, l] exp(-gamma ||z - landmarks[l]||^2) + intercept``.

    z: the standardised features, ``(x - mean) / spread``; ``mean``, ``spread``: (d,); ``landmarks``: (m, d) float32,
    standardised training rows; ``coef``: (c, m).
    """

    name: ClassVar[str] = "rbf"
    keeps_rows: ClassVar[bool] = True
    landmarks: NDArray[np.float32]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    gamma: float
    scale: float = 1.0
    _landmarks: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _weights: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _close: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_landmarks", self.landmarks.astype(np.float64))
        object.__setattr__(self, "_weights", np.ascontiguousarray(self.coef.T))
        total = float(np.abs(self.coef).sum(axis=1).max() + np.abs(self.intercept).max())
        object.__setattr__(self, "_close", _CLOSE * total)

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        return int(self.landmarks.shape[1])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return max(2, len(self.coef))

    def decide_block(self, block: NDArray[Any]) -> NDArray[np.float64]:
        """Return decision values (m, c). The rounding errors of a row depend on the batch, but its class does not."""
        values = Scaler(self.mean, self.spread).apply(block).astype(np.float64, copy=False)
        decisions = self._decide(values, values @ self._landmarks.T)
        require_finite(decisions)
        close = np.flatnonzero(margins(decisions) <= self._close)
        if len(close):
            alone = values[close]
            decisions[close] = self._decide(alone, row_products(alone, self._landmarks.T))
        return decisions

    def _decide(self, values: NDArray[np.float64], products: NDArray[np.float64]) -> NDArray[np.float64]:
        kernel = rbf_of_products(products, values, self._landmarks, self.gamma)
        return row_products(kernel, self._weights) + self.intercept

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the class probabilities (m, k) for the decision values of m rows."""
        return softmax(decisions, self.scale)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return landmarks, coefficients and scaler."""
        names = ("landmarks", "coef", "intercept", "mean", "spread")
        return {name: getattr(self, name) for name in names}

    def numbers(self) -> dict[str, Any]:
        """Return the scalars of the model: gamma of the RBF kernel, and the factor of temperature scaling."""
        return {"gamma": self.gamma, "scale": self.scale}


@dataclass(frozen=True)
class NeighboursModel:
    """Nearest-neighbour model: the ``neighbours`` nearest training rows by cosine vote for their classes.

    A vote has the weight exp((cosine - 1) / temperature), as in Wu et al. (2018) and DINO. ``vectors``: (n, d) float32,
    the training rows minus ``mean`` (d,), scaled to unit length; ``codes``: (n,) class numbers.
    """

    name: ClassVar[str] = "neighbours"
    keeps_rows: ClassVar[bool] = True
    vectors: NDArray[np.float32]
    codes: NDArray[np.int64]
    mean: NDArray[np.float64]
    neighbours: int
    temperature: float
    class_count: int

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        return int(self.vectors.shape[1])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.class_count

    def decide_block(self, block: NDArray[Any]) -> NDArray[np.float64]:
        """Return each class's share of the votes (m, k); for two classes, the share of class 1 minus 0.5 (m, 1)."""
        similarity, index = nearest(unit_rows(block, self.mean), self.vectors, self.neighbours)
        shares = vote(similarity, self.codes[index], self.temperature, self.classes)
        return shares[:, 1:] - 0.5 if self.classes == 2 else shares

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return each class's share of the votes (m, k), which serves as its probability."""
        if self.classes == 2:
            return np.concatenate([0.5 - decisions, 0.5 + decisions], axis=1)
        return np.asarray(decisions, np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the training vectors, their class numbers and their mean."""
        return {"vectors": self.vectors, "codes": self.codes, "mean": self.mean}

    def numbers(self) -> dict[str, Any]:
        """Return the scalars of the model: the number of neighbours, the temperature and the number of classes."""
        return {"neighbours": self.neighbours, "temperature": self.temperature, "class_count": self.class_count}


def vote(
    similarity: NDArray[np.float64], codes: NDArray[np.int64], temperature: float, classes: int
) -> NDArray[np.float64]:
    """Return each class's share (m, k) of the votes of j neighbours.

    ``similarity``: (m, j) cosines, the largest first; ``codes``: (m, j) class numbers of the neighbours.
    """
    relative = similarity - similarity[:, :1]
    weights = np.exp(relative / temperature)
    shares = np.zeros((len(codes), classes))
    np.add.at(shares, (np.arange(len(codes))[:, None], codes), weights)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def restore(
    name: str, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any], classes: int, origin: str
) -> Model:
    """Return the model from its ``arrays()`` and ``numbers()``, after checking every shape and value.

    The file ``origin`` may come from an untrusted source: DamagedError is raised if arrays and scalars do not fit
    together.
    """
    check = Checker(arrays, numbers, origin)
    columns = 1 if classes == 2 else classes
    if name == LinearModel.name:
        coef = check.matrix("coef", np.float64, columns, None)
        return LinearModel(coef, check.vector("intercept", np.float64, columns), check.number("scale"))
    if name == KernelModel.name:
        landmarks = check.matrix("landmarks", np.float32, None, None)
        return KernelModel(
            landmarks,
            check.matrix("coef", np.float64, columns, len(landmarks)),
            check.vector("intercept", np.float64, columns),
            check.vector("mean", np.float64, landmarks.shape[1]),
            check.vector("spread", np.float64, landmarks.shape[1], positive=True),
            check.number("gamma"),
            check.number("scale"),
        )
    if name == NeighboursModel.name:
        vectors = check.matrix("vectors", np.float32, None, None)
        codes = check.vector("codes", np.int64, len(vectors))
        count = check.number("neighbours")
        if codes.min() < 0 or codes.max() >= classes or count != int(count) or check.number("class_count") != classes:
            raise DamagedError(f"{origin}: its class numbers do not fit its classes")
        mean = check.vector("mean", np.float64, vectors.shape[1])
        return NeighboursModel(vectors, codes, mean, int(count), check.number("temperature"), classes)
    if name == LabelSetsModel.name:
        return LabelSetsModel.restore(check, classes)
    if name == NumbersModel.name:
        return NumbersModel.restore(check)
    if name == NetworkModel.name:
        return NetworkModel.restore(check, columns)
    if name == NetworkSetsModel.name:
        return NetworkSetsModel.restore(check, classes)
    if name == EstimatorModel.name:
        payload = check.vector("skops", np.uint8, len(arrays.get("skops", ())))
        return EstimatorModel.restore(payload, numbers, check.number("scale"), classes, origin)
    raise DamagedError(f"{origin}: holds a head of the unknown model {name!r}; a newer featstore may read it")
