"""Losses of linear classifiers, for many problems at once: value and derivative from decision values.

A block of decision values has shape (m, p, c): m rows, p problems, c columns a problem, where c is 1 for two
classes and the number of classes k otherwise. ``codes`` (m,) are class numbers 0..k-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
Evaluated = tuple[NDArray[np.float64], NDArray[np.float64], Values]


@dataclass(frozen=True)
class Loss:
    """A loss by its name and its function.

    ``evaluate(values, codes, weights) -> (sums, curvature, derivative)``: sums (p,) float64 of the weighted loss over
    rows; curvature (p,) likewise of its second derivative, averaged over the columns; derivative (m, p, c), which
    may overwrite ``values``.
    """

    name: str
    evaluate: Callable[[Values, NDArray[np.intp], Values | None], Evaluated]


def columns(classes: int) -> int:
    """Return the decision columns of a linear classifier of ``classes`` classes."""
    return 1 if classes == 2 else classes


def _logistic(values: Values, codes: NDArray[np.intp], weights: Values | None) -> Evaluated:
    rows, _, count = values.shape
    if count == 1:
        z = values[:, :, 0]
        # log(1 + exp(s)) with s = -z for class 1 and z for class 0, stable for either sign.
        sign = np.where(codes == 1, -1.0, 1.0).astype(z.dtype)[:, None]
        z *= sign
        small = np.exp(-np.abs(z))
        loss = np.log1p(small)
        loss += np.maximum(z, 0)
        derivative = np.where(z >= 0, 1, small)
        small += 1
        derivative /= small
        bend = derivative - derivative * derivative
        derivative *= sign
        if weights is not None:
            loss *= weights[:, None]
            bend *= weights[:, None]
            derivative *= weights[:, None]
        return _sum(loss), _sum(bend), derivative[:, :, None]
    values -= values.max(axis=2, keepdims=True)
    index = (np.arange(rows), slice(None), codes)
    own = values[index]
    np.exp(values, out=values)
    total = values.sum(axis=2)
    loss = np.log(total)
    loss -= own
    values /= total[:, :, None]
    bend = (1 - np.einsum("ipc,ipc->ip", values, values)) / count
    values[index] -= 1
    if weights is not None:
        loss *= weights[:, None]
        bend *= weights[:, None]
        values *= weights[:, None, None]
    return _sum(loss), _sum(bend), values


def _sum(values: Values) -> NDArray[np.float64]:
    return np.asarray(values.sum(axis=0, dtype=np.float64))


def _squared_hinge(values: Values, codes: NDArray[np.intp], weights: Values | None) -> Evaluated:
    rows, problems, count = values.shape
    if count == 1:
        sign = np.where(codes == 1, 1.0, -1.0).astype(values.dtype)[:, None, None]
    else:
        sign = np.full((rows, 1, count), -1.0, values.dtype)
        sign[np.arange(rows), 0, codes] = 1.0
    values *= sign
    slack = np.subtract(1, values, out=values)
    np.maximum(slack, 0, out=slack)
    weighted = slack if weights is None else slack * weights[:, None, None]
    loss = np.einsum("ipc,ipc->p", slack, weighted, dtype=np.float64) if rows else np.zeros(problems)
    inside = (slack > 0) if weights is None else (slack > 0) * weights[:, None, None]
    bend = (2 / count) * inside.sum(axis=(0, 2), dtype=np.float64)
    return loss, bend, weighted * (-2 * sign)


LOGISTIC = Loss("logistic", _logistic)
"""Binary or multinomial logistic loss."""

SQUARED_HINGE = Loss("squared hinge", _squared_hinge)
"""max(0, 1 - y z)**2, summed over one-vs-rest columns."""
