"""Limited-memory BFGS that does not call the objective itself, so that many problems can share one pass over the data.

The caller evaluates the attribute ``point`` and passes the result to ``tell`` (ask-and-tell interface). The method is
algorithms 7.4 and 7.5 of Nocedal and Wright, Numerical Optimization (2nd ed.), with a preconditioner as the initial
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
    """Minimisation of one smooth convex function.

    ``point``: the point to evaluate next; pass its objective and gradient to ``tell``. ``best``: the last accepted
    point; ``value``: the objective at ``best``; ``gap``: the estimated difference between ``value`` and the optimum,
    0.5 g'Hg with the gradient g and the current inverse Hessian H (Newton decrement). ``pairs``: (step, gradient
    change) of a similar problem, as initial curvature information. ``noise``: relative rounding error of the objective.

    ``done`` is set in three cases: ``gap`` and the improvement of the last step are at most ``tol * |value|``; or
    ``gap`` is at most a hundredth of this bound (H is too inaccurate to trust a larger ``gap`` alone); or the line
    search finds no point with a smaller objective, because of rounding.
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
        """The stored L-BFGS steps and changes of the gradient, oldest first."""
        return [(step, change) for step, change, _ in self._pairs]

    def tell(self, value: float, gradient: Array) -> None:
        """Take the objective and gradient at ``point``; set ``point`` to the next point, or ``done``."""
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
        # For a tiny step, rounding can make the curvature zero or negative. Do not store such a step, because the
        # inverse Hessian would no longer be positive definite.
        if curvature > 1e-10 * float(np.linalg.norm(step)) * float(np.linalg.norm(change)):
            self._pairs.append((step, change, 1.0 / curvature))

    def _rescale(self) -> None:
        """Scale the preconditioner such that it matches the curvature along the last step."""
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
    """Minimise a single function with at most ``limit`` evaluations; return the best point."""
    while not problem.done and problem.evaluations < limit:
        problem.tell(*objective(problem.point))
    return problem.best
