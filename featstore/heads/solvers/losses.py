"""Losses of linear classifiers, for many problems at once: value and derivatives from decision values.

A block of decision values has the shape (c, p, m): c columns per problem, p problems, m rows. c is 1 for two classes
and otherwise the number of classes k. Rows are the last axis, so that sums over classes and element-wise operations
read contiguous memory. ``codes`` (m,) are class numbers from 0 to k - 1.
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
    """A named loss function.

    ``evaluate(values, codes, weights)`` takes decision values (c, p, m), class numbers (m,) and row weights, and
    returns: the weighted loss summed over rows, (p,) float64; the weighted second derivative summed over rows and
    averaged over columns, (p,); the derivative (c, p, m), which may overwrite ``values``. ``grows``: whether the
    optimal weights for separable classes keep growing with log C, so that these weights can be extrapolated to a larger
    C.
    """

    name: str
    grows: bool
    evaluate: Callable[[Values, NDArray[np.intp], Values | None], Evaluated]


def columns(classes: int) -> int:
    """Return the number of decision columns of a linear classifier for ``classes`` classes."""
    return 1 if classes == 2 else classes


def _logistic(values: Values, codes: NDArray[np.intp], weights: Values | None) -> Evaluated:
    if len(values) == 1:
        return _binary_logistic(values, codes, weights)
    count, _, rows = values.shape
    values -= values.max(axis=0)
    own = (codes, slice(None), np.arange(rows))
    loss = -values[own].T
    np.exp(values, out=values)
    total = values.sum(axis=0)
    loss += np.log(total)
    np.divide(1, total, out=total)
    values *= total
    bend = np.einsum("cpm,cpm->pm", values, values)
    np.subtract(1, bend, out=bend)
    values[own] -= 1
    if weights is not None:
        loss *= weights
        bend *= weights
        values *= weights
    return _sum(loss), _sum(bend) / count, values


def _binary_logistic(values: Values, codes: NDArray[np.intp], weights: Values | None) -> Evaluated:
    z = values[0]
    # The loss is log(1 + exp(s)) with s = -z for class 1 and s = z for class 0, computed without overflow.
    sign = np.where(codes == 1, -1.0, 1.0).astype(z.dtype)
    z *= sign
    small = np.abs(z)
    np.negative(small, out=small)
    np.exp(small, out=small)
    loss = np.log1p(small)
    loss += np.maximum(z, 0)
    derivative = np.where(z >= 0, 1, small)
    small += 1
    derivative /= small
    bend = np.subtract(1, derivative, out=small)
    bend *= derivative
    derivative *= sign
    if weights is not None:
        loss *= weights
        bend *= weights
        derivative *= weights
    return _sum(loss), _sum(bend), derivative[None]


def _sum(values: Values) -> NDArray[np.float64]:
    return np.asarray(values.sum(axis=-1, dtype=np.float64))


def _squared_hinge(values: Values, codes: NDArray[np.intp], weights: Values | None) -> Evaluated:
    count, _, rows = values.shape
    if count == 1:
        sign = np.where(codes == 1, 1.0, -1.0).astype(values.dtype)[None, None]
    else:
        sign = np.full((count, 1, rows), -1.0, values.dtype)
        sign[codes, 0, np.arange(rows)] = 1.0
    values *= sign
    slack = np.subtract(1, values, out=values)
    np.maximum(slack, 0, out=slack)
    weighted = slack if weights is None else slack * weights
    # Sum over the rows of this block in the dtype of ``values``, then over the columns in float64.
    loss = np.einsum("cpm,cpm->cp", slack, weighted).sum(axis=0, dtype=np.float64)
    if weights is None:
        inside = np.count_nonzero(slack, axis=(0, 2)).astype(np.float64)
    else:
        inside = ((slack > 0) * weights).sum(axis=(0, 2), dtype=np.float64)
    sign *= -2
    return loss, (2 / count) * inside, np.multiply(weighted, sign, out=weighted)


LOGISTIC = Loss("logistic", True, _logistic)
"""Binary or multinomial logistic loss."""

SQUARED_HINGE = Loss("squared hinge", False, _squared_hinge)
"""Squared hinge loss: max(0, 1 - y z)**2 with y = 1 or -1 and decision value z, summed over one-vs-rest columns."""


def predict_codes(decisions: NDArray[Any], axis: int = -1) -> NDArray[np.intp]:
    """Return the predicted class numbers (...) from decision values (..., c); ``axis``: the axis of the c columns."""
    if decisions.shape[axis] == 1:
        return np.asarray(decisions.take(0, axis) > 0, np.intp)
    return np.asarray(decisions.argmax(axis))
