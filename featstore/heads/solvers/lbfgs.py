"""Limited-memory BFGS with an ask-and-tell interface, so that many problems can share one pass over the data.

Nocedal and Wright, Numerical Optimization (2nd ed.), algorithms 7.4 and 7.5, with a preconditioner as the initial
inverse Hessian and a backtracking (Armijo) line search by quadratic interpolation. Vectors have the dtype of the
starting point, scalars are float64.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

_ARMIJO: Final = 1e-4
_BACKTRACKS: Final = 12
_UNDERESTIMATE: Final = 100


class Lbfgs:
    """One smooth convex minimisation.

    ``point``: the point to evaluate next; pass its objective and gradient to ``tell``. ``best``: the accepted iterate;
    ``value``: its objective; ``gap``: its estimated distance above the optimum, half of g'Hg with H the current inverse
    Hessian (the Newton decrement). ``done``: the gap and the improvement of the last step are both at most ``tol *
    |value|``, or the gap alone is at most a hundredth of that (H may approximate the curvature too badly to trust the
    gap alone), or rounding (``noise``, relative to the value) allows no further descent. ``pairs``: (step, gradient
    change) of a similar problem, as initial curvature information.
    """

    def __init__(
        self,
        start: Array,
        precondition: Callable[[Array], Array],
        *,
        tol: float,
        noise: float,
        memory: int = 10,
        pairs: Iterable[tuple[Array, Array]] = (),
    ) -> None:
        self.point = start
        self.best = start
        self.value = np.inf
        self.gap = np.inf
        self.gradient = np.zeros_like(start)
        self.done = False
        self.evaluations = 0
        self._precondition = precondition
        self._tol, self._noise = tol, noise
        self._pairs: deque[tuple[Array, Array, float]] = deque(maxlen=memory)
        self._scale = 1.0
        self._direction = np.zeros_like(start)
        self._slope = 0.0
        self._step = 1.0
        self._backtracks = 0
        for step, change in pairs:
            self._remember(step, change)

    @property
    def pairs(self) -> list[tuple[Array, Array]]:
        """The stored steps and gradient changes, oldest first."""
        return [(step, change) for step, change, _ in self._pairs]

    def tell(self, value: float, gradient: Array) -> None:
        """Record the objective and gradient at ``point``; set the next ``point`` or ``done``."""
        self.evaluations += 1
        gain = np.inf
        if self.evaluations > 1:
            slack = self._noise * abs(self.value)
            if not value <= self.value + _ARMIJO * self._step * self._slope + slack:
                self._shorten(value)
                return
            gain = self.value - value
            self._remember(self.point - self.best, gradient - self.gradient)
        self._rescale()
        self.best, self.value, self.gradient = self.point, value, gradient
        direction = -self._inverse_hessian(gradient)
        slope = float(np.vdot(gradient, direction))
        self.gap = -slope / 2
        if min(max(self.gap, gain), _UNDERESTIMATE * self.gap) <= self._tol * abs(value):
            self.done = True
            return
        self._direction, self._slope = direction, slope
        self._step, self._backtracks = 1.0, 0
        self.point = self.best + direction

    def _shorten(self, value: float) -> None:
        self._backtracks += 1
        if self._backtracks > _BACKTRACKS:
            self.done = True
            return
        shrink = 0.1
        if np.isfinite(value):
            curvature = value - self.value - self._step * self._slope
            shrink = min(max(-self._slope * self._step / (2 * curvature), 0.1), 0.6)
        self._step *= shrink
        self.point = self.best + self._step * self._direction

    def _remember(self, step: Array, change: Array) -> None:
        curvature = float(np.vdot(step, change))
        # Rounding can hide the curvature of a tiny step; storing such a pair would break positive definiteness.
        if curvature > 1e-10 * float(np.linalg.norm(step)) * float(np.linalg.norm(change)):
            self._pairs.append((step, change, 1.0 / curvature))

    def _rescale(self) -> None:
        """Fit the preconditioner to the curvature along the last step."""
        if self._pairs:
            _, change, rho = self._pairs[-1]
            self._scale = 1.0 / (rho * float(np.vdot(change, self._precondition(change))))

    def _inverse_hessian(self, gradient: Array) -> Array:
        q = gradient.copy()
        factors: list[float] = []
        for step, change, rho in reversed(self._pairs):
            factor = rho * float(np.vdot(step, q))
            q -= factor * change
            factors.append(factor)
        q = self._precondition(q) * self._scale
        for (step, change, rho), factor in zip(self._pairs, reversed(factors), strict=True):
            q += (factor - rho * float(np.vdot(change, q))) * step
        return q


def run(problem: Lbfgs, objective: Callable[[Array], tuple[float, Array]], limit: int) -> Any:
    """Minimise a single problem with at most ``limit`` evaluations; return the best point."""
    while not problem.done and problem.evaluations < limit:
        problem.tell(*objective(problem.point))
    return problem.best
