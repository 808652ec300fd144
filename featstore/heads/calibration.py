"""Temperature scaling: convert decision values to calibrated probabilities.

Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks (ICML 2017): one number multiplies all
decision values before the sigmoid or softmax, so the predicted class does not change. The number must be fitted on
decision values of held-out rows.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_LARGEST: Final = 1e4


def softmax(decisions: NDArray[Any], scale: float = 1.0) -> NDArray[np.float64]:
    """Return probabilities (n, k) of decision values (n, c) times ``scale``: sigmoid if c = 1 (k = 2), else softmax."""
    z = decisions.astype(np.float64) * scale
    if z.shape[1] == 1:
        small = np.exp(-np.abs(z[:, 0]))
        positive = np.where(z[:, 0] >= 0, 1.0, small) / (1.0 + small)
        negative = np.where(z[:, 0] >= 0, small, 1.0) / (1.0 + small)
        return np.stack([negative, positive], axis=1)
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    return z


def rescale(probabilities: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    """Return the probabilities (n, k) that result if the decision values are multiplied by ``factor``."""
    logs = factor * np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return softmax(logs)


def fit_scale(decisions: NDArray[np.float64], codes: NDArray[np.intp], classes: int) -> float:
    """Return the factor that minimises the log loss of decision values (n, c) of held-out rows.

    The target probability of the true class k is (n_k + 1) / (n_k + 2) instead of 1, as in Platt (1999), so that the
    factor stays finite for perfectly separated rows. The loss is convex in the factor.
    """
    from scipy.optimize import minimize_scalar

    counts = np.bincount(codes, minlength=classes).astype(np.float64)
    own = ((counts + 1) / (counts + 2))[codes]
    targets = np.repeat(((1 - own) / (classes - 1))[:, None], classes, axis=1)
    targets[np.arange(len(codes)), codes] = own

    def loss(log_scale: float) -> float:
        return -float(np.mean(np.sum(targets * log_softmax(decisions, float(np.exp(log_scale))), axis=1)))

    found = minimize_scalar(loss, bounds=(-np.log(_LARGEST), np.log(_LARGEST)), method="bounded")
    return float(np.exp(found.x))


def log_softmax(decisions: NDArray[Any], scale: float = 1.0) -> NDArray[np.float64]:
    """Return the logarithm of ``softmax`` (n, k), computed without underflow."""
    z = decisions.astype(np.float64) * scale
    if z.shape[1] == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    z = z - z.max(axis=1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))
