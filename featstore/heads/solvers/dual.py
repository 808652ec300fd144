"""Newton's method for squared-hinge support vector machines on a kernel matrix: exact, for up to about 2,000 rows.

Chapelle, Training a Support Vector Machine in the Primal (Neural Computation 2007): on the rows inside the margin
the objective is quadratic, so one linear system gives its minimum, and the method ends when the set of those rows
no longer changes. It is used for the RBF kernel and, on few rows, for the linear kernel: there the problem is small but
badly conditioned, so a first-order method would need many passes.

The one-vs-rest columns of a problem have the same rows and regularisation, so they share one inverse; a linear system
of the size of the rows outside the margin removes those rows from it. Each step then factorises one matrix whose size
is the number of rows inside or outside the margin, whichever is smaller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from featstore.heads.calibration import fit_scale, log_softmax
from featstore.heads.solvers.grid import FoldScores
from featstore.heads.solvers.losses import columns, predict_codes
from featstore.heads.solvers.passes import Problem
from featstore.heads.solvers.rows import Labels
from featstore.heads.solvers.selection import Choice, choose

FOLD_TOLERANCE: Final = 1e-4
"""Relative tolerance of cross-validation fits: they stop after a step that improves the objective by less than this
share. The next step would improve it by orders of magnitude less, and held-out scores are far noisier."""
_STEPS: Final = 60
_ROUNDING: Final = 1e-12
"""Relative change of the objective below which a difference counts as rounding error."""
_LEAST_STEP: Final = 1e-4

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Start = tuple[Floats, Floats]
"""Weights (n, c) and intercepts (c,)."""


@dataclass(frozen=True)
class DualSolution:
    """Weights of the rows (n, c) and intercepts (c,): decisions are ``kernel @ weights + intercept``, here (n, c).

    ``objective``: 0.5 weights' kernel weights + C sum of weighted losses, over all columns; ``converged``: whether
    every column ended with its set of rows inside the margin unchanged, or with a gain under the tolerance;
    ``steps``: the largest number of Newton steps that a column took.
    """

    problem: Problem
    weights: Floats
    intercept: Floats
    decisions: Floats
    objective: float
    converged: bool
    steps: int


def solve(
    kernel: Floats, labels: Labels, problems: Sequence[Problem], *, tol: float = 0.0, start: Start | None = None
) -> list[DualSolution]:
    """Solve ``problems`` for ``kernel`` (n, n), symmetric and positive semi-definite; solutions in order.

    List the problems of one fold by increasing C: each starts from the solution of the previous one, the first from
    ``start`` (zero if None). ``tol``: a column also stops after a step that improves its objective by less than this
    share.
    """
    weights = labels.weights_of(slice(None), np.float64)
    weights = np.ones(len(labels.codes)) if weights is None else weights
    solutions: dict[int, DualSolution] = {}
    # Use one thread: numpy and scipy each have a BLAS of their own. Idle BLAS threads busy-wait for longer than most of
    # these operations take, so two thread pools on the same cores slow each other down by more than a factor of ten.
    with threadpool_limits(1, user_api="blas"):
        for fold in dict.fromkeys(problem.fold for problem in problems):
            own = [(place, problem) for place, problem in enumerate(problems) if problem.fold == fold]
            solved = _solve_fold(kernel, labels, weights, [problem for _, problem in own], tol, start)
            solutions |= dict(zip([place for place, _ in own], solved, strict=True))
    return [solutions[place] for place in range(len(problems))]


def _solve_fold(
    kernel: Floats, labels: Labels, row_weights: Floats, problems: list[Problem], tol: float, start: Start | None
) -> Iterator[DualSolution]:
    """Yield the solutions of problems that hold out the same fold."""
    trained = row_weights > 0
    if problems[0].fold is not None:
        trained &= labels.folds != problems[0].fold
    rows = np.flatnonzero(trained)
    inner = kernel if len(rows) == len(kernel) else _part(kernel, rows)
    own = [1] if columns(labels.classes) == 1 else list(range(labels.classes))
    signs = np.where(labels.codes[rows] == np.array(own)[:, None], 1.0, -1.0)
    if start is None:
        state = _State(np.zeros(signs.shape), np.zeros(len(own)), np.zeros(signs.shape))
    else:
        from_weights = np.ascontiguousarray(start[0][rows].T)
        state = _State(from_weights, start[1], from_weights @ inner + start[1][:, None])
    for problem in problems:
        machines = _Machines(inner, signs, problem.C * row_weights[rows])
        state, objective, converged, steps = machines.minimise(state, tol)
        weights = np.zeros((len(kernel), len(own)))
        weights[rows] = state.weights.T
        decisions = kernel @ weights + state.intercept
        yield DualSolution(problem, weights, state.intercept, decisions, objective, converged, steps)


def _part(matrix: Floats, rows: NDArray[np.intp]) -> Floats:
    """Return the submatrix (m, m) of ``matrix``; two takes are several times faster than indexing with two arrays."""
    return matrix.take(rows, axis=0).take(rows, axis=1)


@dataclass(frozen=True)
class _State:
    """Current iterate of all columns: weights (c, m), intercepts (c,), decisions (c, m)."""

    weights: Floats
    intercept: Floats
    decisions: Floats

    def of(self, chosen: NDArray[np.intp]) -> _State:
        return _State(self.weights[chosen], self.intercept[chosen], self.decisions[chosen])

    def toward(self, other: _State, share: Floats) -> _State:
        """Return the linear interpolation between these columns and ``other`` at the fractions ``share`` (c,)."""
        b = share[:, None]
        return _State(
            (1 - b) * self.weights + b * other.weights,
            (1 - share) * self.intercept + share * other.intercept,
            (1 - b) * self.decisions + b * other.decisions,
        )


class _Machines:
    """The columns of one problem on its ``m`` training rows: kernel (m, m), signs (c, m), C times row weights (m,)."""

    def __init__(self, kernel: Floats, signs: Floats, strength: Floats) -> None:
        self.kernel, self.signs, self.strength = kernel, signs, strength
        self._ridge = 1.0 / (2.0 * strength)
        self._whole: tuple[Floats, Floats, Floats] | None = None
        """The inverse of kernel + ridge over all rows, and its products with the signs (c, m) and with ones (m,)."""

    def minimise(self, state: _State, tol: float) -> tuple[_State, float, bool, int]:
        """Return (optimum, its objective, whether all columns converged, steps taken), by Newton's method."""
        live = np.arange(len(self.signs))
        values = self._values(live, state)
        state = _State(state.weights.copy(), state.intercept.copy(), state.decisions.copy())
        failed, steps = False, 0
        while len(live) and steps < _STEPS:
            steps += 1
            now = state.of(live)
            inside = self._inside(live, now)
            moved, found, step = self._search(live, now, values[live], self._targets(live, inside, now.intercept))
            lower = found <= values[live] * (1 + _ROUNDING)
            failed = failed or not lower.all()
            gain = values[live] - found
            chosen = live[lower]
            state.weights[chosen] = moved.weights[lower]
            state.intercept[chosen] = moved.intercept[lower]
            state.decisions[chosen] = moved.decisions[lower]
            settled = (step == 1) & (self._inside(live, moved) == inside).all(axis=1)
            settled |= gain <= max(tol, _ROUNDING) * np.abs(found)
            values[chosen] = found[lower]
            live = live[lower & ~settled]
        return state, float(values.sum()), not failed and not len(live), steps

    def _inside(self, chosen: NDArray[np.intp], state: _State) -> Mask:
        return np.asarray(self.signs[chosen] * state.decisions < 1)

    def _values(self, chosen: NDArray[np.intp], state: _State) -> Floats:
        """Return the objective of each column (q,)."""
        slack = np.maximum(0.0, 1.0 - self.signs[chosen] * state.decisions)
        penalty = np.einsum("qm,qm->q", state.weights, state.decisions - state.intercept[:, None])
        return np.asarray(0.5 * penalty + (slack * slack) @ self.strength)

    def _search(
        self, chosen: NDArray[np.intp], state: _State, values: Floats, target: _State
    ) -> tuple[_State, Floats, Floats]:
        """Run the line search towards ``target``; return the accepted points, objectives (q,) and steps (q,)."""
        step = np.ones(len(chosen))
        moved, found = target, self._values(chosen, target)
        while (worse := (found > values * (1 + _ROUNDING)) & (step > _LEAST_STEP)).any():
            step[worse] /= 2
            moved = state.toward(target, step)
            found = self._values(chosen, moved)
        return moved, found, step

    def _targets(self, chosen: NDArray[np.intp], inside: Mask, intercept: Floats) -> _State:
        """Return the minima of the objectives, taken as quadratics whose rows inside the margin are ``inside`` (q, m).

        With S = kernel + ridge on the rows inside, S w + b = signs there and w = 0 outside; as the intercept is free,
        the weights sum to zero. So w = S^-1 signs - b S^-1 1, and both terms are solved for at once. If no row is
        inside, w = 0 and every b is optimal: the current ``intercept`` (q,) is kept.
        """
        many = (2 * inside.sum(axis=1) > inside.shape[1]) & (len(self.signs) > 1)
        solved = np.zeros((len(chosen), 2, inside.shape[1]))
        for place in np.flatnonzero(~many):
            rows = np.flatnonzero(inside[place])
            right = np.stack([self.signs[chosen[place], rows], np.ones(len(rows))])
            system = _part(self.kernel, rows)
            system[np.diag_indices_from(system)] += self._ridge[rows]
            solved[place][:, rows] = _solve_positive(system, right.T).T
        if many.any():
            solved[many] = self._solve_by_inverse(chosen[many], inside[many])
        some = inside.any(axis=1)
        intercept = intercept.copy()
        intercept[some] = solved[some, 0].sum(axis=1) / solved[some, 1].sum(axis=1)
        weights = solved[:, 0] - intercept[:, None] * solved[:, 1]
        return _State(weights, intercept, weights @ self.kernel + intercept[:, None])

    def _solve_by_inverse(self, chosen: NDArray[np.intp], inside: Mask) -> Floats:
        """Return the solutions (q, 2, m): those over all rows, corrected so that rows outside the margin get weight 0."""
        if self._whole is None:
            system = self.kernel.copy()
            system[np.diag_indices_from(system)] += self._ridge
            inverse = _invert(system)
            self._whole = inverse, self.signs @ inverse, inverse.sum(axis=0)
        inverse, of_signs, of_ones = self._whole
        solved = np.stack([of_signs[chosen], np.broadcast_to(of_ones, (len(chosen), len(of_ones)))], axis=1)
        forces = np.zeros_like(solved)
        for place, own in enumerate(inside):
            rows = np.flatnonzero(~own)
            if len(rows):
                forces[place][:, rows] = _solve_positive(inverse[np.ix_(rows, rows)], solved[place][:, rows].T).T
        solved -= (forces.reshape(-1, len(of_ones)) @ inverse).reshape(solved.shape)
        solved.transpose(0, 2, 1)[~inside] = 0.0
        return solved


def _solve_positive(system: Floats, right: Floats) -> Floats:
    # A symmetric matrix equals its transpose, and the transpose of a C-ordered array has the Fortran order that LAPACK
    # can overwrite in place.
    factor = scipy.linalg.cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    return np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False))


def _invert(system: Floats) -> Floats:
    """Return the inverse of a positive definite matrix; the input is overwritten."""
    factor, lower = scipy.linalg.cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    inverse, info = scipy.linalg.lapack.dpotri(factor, lower=lower, overwrite_c=True)
    if info:
        raise np.linalg.LinAlgError("the kernel matrix is not positive definite")
    # LAPACK writes the lower triangle only; the upper one still holds old values.
    rest = np.tril(inverse, -1)
    return np.asarray(np.tril(inverse) + rest.T)


def score(labels: Labels, solutions: list[DualSolution]) -> FoldScores:
    """Score each solution on its held-out fold."""
    cells = []
    for solution in solutions:
        out = labels.folds == solution.problem.fold
        codes, decisions = labels.codes[out], solution.decisions[out]
        hits = predict_codes(decisions) == codes
        recalls = [float(hits[codes == code].mean()) for code in np.unique(codes)]
        surprise = -log_softmax(decisions)[np.arange(len(codes)), codes]
        cells.append((len(codes), float(hits.mean()), float(np.mean(recalls)), float(surprise.mean())))
    table = np.array(cells)
    return FoldScores(table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3])


def held_out_decisions(labels: Labels, solutions: list[DualSolution]) -> tuple[Floats, NDArray[Any]]:
    """Return decision values (m, c) of all held-out rows, each from its own fold's solution, and class numbers (m,)."""
    parts = [(s.decisions[out], labels.codes[out]) for s in solutions for out in [labels.folds == s.problem.fold]]
    return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])


@dataclass(frozen=True)
class DualFit:
    """Result of a search: the chosen C with the table of results, the calibration scale, the final solution."""

    choice: Choice
    scale: float
    final: DualSolution


def grid_problems(labels: Labels, candidates: list[float]) -> tuple[list[Problem], int]:
    """Return the problems of every C (outer loop, increasing) and fold (inner loop), and the number of folds."""
    present = np.unique(labels.folds[labels.folds >= 0])
    return [Problem(C, int(fold)) for C in candidates for fold in present], len(present)


def finish(kernel: Floats, labels: Labels, solutions: list[DualSolution], C: float) -> tuple[float, DualSolution]:
    """Return the calibration scale from the folds' ``solutions`` for ``C``, and the exact solution on all rows."""
    scale = fit_scale(*held_out_decisions(labels, solutions), labels.classes)
    mean = np.mean([s.weights for s in solutions], axis=0), np.mean([s.intercept for s in solutions], axis=0)
    return scale, solve(kernel, labels, [Problem(C, None)], start=mean)[0]


def search(kernel: Floats, labels: Labels, candidates: list[float], scoring: str) -> DualFit:
    """Choose C by cross-validation, calibrate on held-out decisions, and fit all rows."""
    problems, count = grid_problems(labels, candidates)
    solutions = solve(kernel, labels, problems, tol=FOLD_TOLERANCE)
    choice = choose({"C": candidates}, score(labels, solutions), count, scoring)
    best = solutions[choice.index * count : (choice.index + 1) * count]
    return DualFit(choice, *finish(kernel, labels, best, candidates[choice.index]))
