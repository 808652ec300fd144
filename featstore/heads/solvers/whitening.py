"""A preconditioner from the eigenvalues of the features' Gram matrix.

The Hessian of a linear classifier is nearly ``I + s * Gram``, where the Gram matrix (d, d) is the mean outer product of
the rows. Its leading eigenvectors are computed by a randomised block iteration (Halko, Martinsson and Tropp, SIAM
Review 2011); all other eigenvalues are replaced by their mean. One decomposition is used for every C and fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.solvers.threads import one_blas_thread

_RANK: Final = 256
_OVERSAMPLING: Final = 32
_ITERATIONS: Final = 2


@dataclass(frozen=True)
class Spectrum:
    """Approximation of the Gram matrix by ``basis diag(values) basis' + tail (I - basis basis')``.

    ``basis``: (d, r) orthonormal eigenvectors of the Gram matrix, None if the eigenvectors are the coordinate axes (r =
    d); basis' is its transpose. ``values``: (r,) eigenvalues of these eigenvectors; ``tail``: mean of all other
    eigenvalues.
    """

    basis: NDArray[Any] | None
    values: NDArray[np.float64]
    tail: float

    def solve(self, scale: float, right: NDArray[Any]) -> NDArray[Any]:
        """Return ``right (I + scale * Gram)^-1`` for ``right`` of shape (c, d)."""
        inverse = 1.0 / (1.0 + scale * self.values)
        if self.basis is None:
            return np.asarray(right * inverse.astype(right.dtype))
        rest = 1.0 / (1.0 + scale * self.tail)
        inner = right.astype(self.basis.dtype, copy=False) @ self.basis
        inner *= (inverse - rest).astype(self.basis.dtype)
        return np.asarray(rest * right + inner @ self.basis.T)


def spectrum_of(sample: NDArray[Any], seed: int = 0) -> Spectrum:
    """Return the spectrum of the Gram matrix of ``sample`` (m, d), standardised rows; exact if d is at most 256."""
    rows, dimension = sample.shape
    gram = (sample.T @ sample) / np.asarray(rows, sample.dtype)
    if dimension <= _RANK:
        values, basis = np.linalg.eigh(gram.astype(np.float64))
        return Spectrum(basis, np.maximum(values, 0.0), 0.0)
    random = np.random.default_rng(seed)
    block = random.standard_normal((dimension, _RANK + _OVERSAMPLING)).astype(gram.dtype)
    # Use one thread: the QR decomposition of a narrow matrix has many short steps, between which BLAS threads
    # busy-wait.
    with one_blas_thread():
        for _ in range(_ITERATIONS):
            block = np.linalg.qr(gram @ block)[0]
        values, inner = np.linalg.eigh((block.T @ (gram @ block)).astype(np.float64))
    values = np.maximum(values[_OVERSAMPLING:], 0.0)
    basis = block @ inner[:, _OVERSAMPLING:].astype(block.dtype)
    tail = max(0.0, (float(np.trace(gram, dtype=np.float64)) - float(values.sum())) / (dimension - _RANK))
    return Spectrum(basis, values, tail)
