"""The model of a head from another package: a wrapper that gives its classifier decision values and calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.heads import skops_bytes
from featstore.heads.calibration import softmax
from featstore.text import printable

OUTPUTS: Final = ("predict_proba", "decision_function", "predict")
"""Methods of a classifier from which decision values can be made, in order of preference."""
_LEAST: Final = 1e-6
"""Smallest probability whose logarithm is taken: smaller ones, such as 0 from a decision tree, are raised to this
value."""


@dataclass(frozen=True)
class EstimatorModel:
    """A fitted classifier as a skops file, unpacked when it is first used.

    ``payload``: the bytes of the skops file, (n,) uint8; ``output``: the method that gives the decision values, one of
    OUTPUTS. The classifier predicts the class numbers 0 to ``classes`` - 1. ``scale`` multiplies decision values before
    the sigmoid or softmax. ``trust``: names of Python types that the file may create, besides those that skops trusts.
    ``origin``: the name of the head's file in error messages.
    """

    name: ClassVar[str] = "estimator"
    # An estimator of another package may contain training rows, as nearest-neighbour classifiers do.
    keeps_rows: ClassVar[bool] = True
    payload: NDArray[np.uint8]
    output: str
    dimension: int
    classes: int
    scale: float = 1.0
    trust: tuple[str, ...] = ()
    origin: str = "the head"

    @cached_property
    def estimator(self) -> Any:
        """The classifier, unpacked. Raises UsageError for an untrusted type or if skops is not installed; DamagedError
        if the file is damaged.
        """
        made = skops_bytes.unpack(self.payload.tobytes(), self.trust, self.origin)
        try:
            fits = np.array_equal(made.classes_, np.arange(self.classes))
            fits = fits and getattr(made, "n_features_in_", self.dimension) == self.dimension
        except Exception:
            fits = False
        if not fits or not callable(getattr(made, self.output, None)):
            raise DamagedError(f"{self.origin}: its classifier does not fit its classes and features")
        return made

    def decide_block(self, block: NDArray[Any]) -> NDArray[np.float64]:
        """Return the decision values (m, c) of the m rows; c is 1 for two classes, otherwise the number of classes.

        Raises the errors of unpacking, and DamagedError if the classifier fails.
        """
        estimator = self.estimator
        try:
            return decisions_of(estimator, self.output, block.astype(np.float32, copy=False), self.classes)
        except Exception as error:
            raise DamagedError(
                f"{self.origin}: its classifier failed on these features ({printable(str(error))[:200]})"
            ) from None

    def probabilities(self, decisions: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities (m, k) of the k classes, from the ``decisions`` (m, c)."""
        return softmax(decisions, self.scale)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that are saved with the head: the skops file as an array of bytes."""
        return {"skops": self.payload}

    def numbers(self) -> dict[str, Any]:
        """Return the numbers and names that are saved with the head: ``scale``, ``output`` and ``dimension``."""
        return {"scale": self.scale, "output": self.output, "dimension": self.dimension}

    def untrusted(self) -> list[str]:
        """Return the names of the classifier's types that skops does not trust.

        Raises DamagedError if the file is damaged, UsageError if skops is not installed.
        """
        return skops_bytes.untrusted(self.payload.tobytes(), self.origin)

    @classmethod
    def restore(
        cls, payload: NDArray[np.uint8], numbers: Mapping[str, Any], scale: float, classes: int, origin: str
    ) -> EstimatorModel:
        """Return the model from its saved ``payload`` and ``numbers()``; the classifier is not unpacked yet.

        Raises DamagedError if a value has a wrong type or size.
        """
        output, dimension = numbers.get("output"), numbers.get("dimension")
        if output not in OUTPUTS or type(dimension) is not int or not 0 < dimension < 1 << 24:
            raise DamagedError(f"{origin}: its description of the classifier is damaged")
        return cls(payload, output, dimension, classes, scale, origin=origin)


def decisions_of(estimator: Any, output: str, block: NDArray[np.float32], classes: int) -> NDArray[np.float64]:
    """Return decision values (m, c) of ``estimator`` for the rows of ``block``, made by its method ``output``.

    For "predict_proba" these are logarithms of probabilities, for "decision_function" its result, for "predict" 1 for
    the predicted class and 0 for the others. The estimator must predict class numbers. Raises ValueError for results of
    a wrong shape or with NaN, and the estimator's own errors.
    """
    if not len(block):
        return np.zeros((0, 1 if classes == 2 else classes))
    if output == "predict":
        made = np.eye(classes)[np.asarray(estimator.predict(block)).astype(np.intp)]
    else:
        method: Callable[[Any], Any] = getattr(estimator, output)
        made = np.asarray(method(block), np.float64)
    if output == "predict_proba":
        made = np.log(np.clip(made, _LEAST, 1.0))
    if classes == 2 and made.ndim == 1:
        made = made[:, None]
    elif classes == 2 and made.shape[1:] == (2,):
        made = made[:, 1:] - made[:, :1]
    if made.shape != (len(block), 1 if classes == 2 else classes):
        raise ValueError(f"{output} gives an array of shape {made.shape} for {len(block)} rows and {classes} classes")
    if not np.isfinite(made).all():
        raise ValueError(f"{output} gives NaN or infinity")
    return np.asarray(made, np.float64)
