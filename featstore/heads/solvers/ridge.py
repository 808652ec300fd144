"""Ridge regression in closed form, from Gram matrices that one pass over the rows accumulates in float64.

Each fold has a Gram matrix of the standardised features with the target as the last column. Sums of these matrices
give the solution for every set of folds and every alpha, and also the squared error on a fold, without the rows. So one
pass serves all folds and alphas, and the memory does not depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features
from featstore.errors import DataError
from featstore.heads.solvers.blocks import Scaler, iterate

_STEP: Final = 2048
"""Number of rows that are converted to float64 at once."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over rows z = (x, y). ``count``: number of rows; ``total`` (d + 1,): sum of z; ``gram`` (d + 1, d + 1): sum
    of z z'.

    x: standardised features (d,); y: the target, shifted and scaled.
    """

    count: int
    total: Floats
    gram: Floats

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.gram + other.gram)

    def without(self, other: Moments) -> Moments:
        """Return these sums without the rows of ``other``."""
        return Moments(self.count - other.count, self.total - other.total, self.gram - other.gram)

    def solve(self, alphas: Sequence[float]) -> list[tuple[Floats, float]]:
        """Return weights (d,) and intercept for each alpha.

        They minimise ``||y - X w - b||^2 + alpha ||w||^2``, the objective of scikit-learn's Ridge.
        Raises DataError if alpha is too small for features that depend on each other.
        """
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        mean = self.total / self.count
        centred = self.gram - self.count * np.outer(mean, mean)
        found = []
        for alpha in alphas:
            system = centred[:-1, :-1].copy()
            system.flat[:: len(system) + 1] += alpha
            try:
                weights = cho_solve(
                    cho_factor(system, overwrite_a=True, check_finite=False), centred[:-1, -1], check_finite=False
                )
            except LinAlgError:
                raise DataError(
                    f"alpha={alpha:g} is too small: features depend on each other linearly; take a larger alpha"
                ) from None
            found.append((weights, float(mean[-1] - mean[:-1] @ weights)))
        return found

    def squared_error(self, weights: Floats, intercept: float) -> float:
        """Return the mean squared error of weights (d,) and intercept on the rows."""
        z = np.append(-weights, 1.0)
        error = z @ self.gram @ z - 2 * intercept * (z @ self.total) + self.count * intercept**2
        return max(float(error), 0.0) / self.count


def accumulate(
    X: Features, y: Floats, folds: NDArray[np.intp], scaler: Scaler, mean: float, scale: float
) -> dict[int, Moments]:
    """Return the Moments of the rows of each fold, in one pass.

    ``y`` (n,): targets, standardised as (y - ``mean``) / ``scale``; ``folds`` (n,): fold numbers; ``scaler``: for the
    columns of ``X``.
    """
    from scipy.linalg.blas import dsyrk

    width = int(X.shape[1]) + 1
    # dsyrk adds the lower triangle of z'z in place, if the array is in Fortran order.
    grams = {int(fold): np.zeros((width, width), order="F") for fold in np.unique(folds)}
    totals = {fold: np.zeros(width) for fold in grams}
    start = 0
    for block in iterate(X):
        for at in range(0, len(block), _STEP):
            rows = slice(start + at, start + min(at + _STEP, len(block)))
            values = np.empty((rows.stop - rows.start, width))
            np.subtract(block[at : at + _STEP], scaler.mean, out=values[:, :-1])
            values[:, :-1] /= scaler.scale
            values[:, -1] = (y[rows] - mean) / scale
            inside = folds[rows]
            for fold in np.unique(inside).tolist():
                chosen = values if (inside == fold).all() else values[inside == fold]
                grams[fold] = dsyrk(1.0, chosen.T, beta=1.0, c=grams[fold], lower=1, overwrite_c=1)
                totals[fold] += chosen.sum(axis=0)
        start += len(block)
    counts = {fold: int((folds == fold).sum()) for fold in grams}
    for gram in grams.values():
        upper = np.triu_indices(width, 1)
        gram[upper] = gram.T[upper]
    return {fold: Moments(counts[fold], totals[fold], grams[fold]) for fold in grams}
