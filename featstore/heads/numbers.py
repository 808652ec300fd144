"""The model of a head that predicts a number from features: a linear function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from featstore.heads.checking import Checker
from featstore.heads.rowwise import row_products


@dataclass(frozen=True)
class NumbersModel:
    """Linear regression: the predicted number for row ``x`` is ``x @ coef[0] + intercept[0]``.

    ``coef``: (1, d) float64, for raw (not standardised) features; ``intercept``: (1,) float64.
    """

    name: ClassVar[str] = "numbers"
    keeps_rows: ClassVar[bool] = False
    classes: ClassVar[int] = 0
    columns: ClassVar[int] = 1
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    _weights: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_weights", np.ascontiguousarray(self.coef.T))

    @property
    def dimension(self) -> int:
        """Number of values of a feature vector."""
        return int(self.coef.shape[1])

    def decide_block(self, block: NDArray[Any]) -> NDArray[np.float64]:
        """Return the predicted numbers (m, 1), in float64 for features of every type."""
        return row_products(block.astype(np.float64, copy=False), self._weights) + self.intercept

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the predicted numbers (m, 1) unchanged: a number has no probability."""
        return np.asarray(decisions, np.float64)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the coefficients and the intercept."""
        return {"coef": self.coef, "intercept": self.intercept}

    def numbers(self) -> dict[str, Any]:
        """Return an empty dict: the model has no scalars."""
        return {}

    @classmethod
    def restore(cls, check: Checker) -> NumbersModel:
        """Return the model from the arrays of a file. Raises DamagedError if the arrays do not fit."""
        return cls(check.matrix("coef", np.float64, 1, None), check.vector("intercept", np.float64, 1))
