"""Newton's method for squared-hinge support vector machines on a kernel matrix: exact, for up to about 2,000 rows.

Source: Chapelle, Training a Support Vector Machine in the Primal (Neural Computation 2007). For a fixed set of rows
inside the margin (rows with a loss above 0) the objective is quadratic, so a linear system gives its minimum. The
method ends when this set no longer changes. It is used for the RBF kernel, and for the linear kernel on few rows, where
the problem is small but ill-conditioned and a first-order method would need many passes.

The one-vs-rest columns of a problem have the same rows and regularisation, so they share one inverse of the kernel
matrix. If most rows are inside the margin, a smaller linear system removes the rows outside the margin from the
solution. So the size of the factorised matrix is the number of rows inside or outside the margin, whichever is smaller.

Letters in shapes: n rows, m training rows of a problem, c one-vs-rest columns, q chosen columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from featstore.heads.calibration import fit_scale, log_softmax
from featstore.heads.solvers.grid import FoldScores
from featstore.heads.solvers.losses import columns, predict_codes
from featstore.heads.solvers.passes import Problem
from featstore.heads.solvers.rows import Labels
from featstore.heads.solvers.selection import Choice, choose
from featstore.heads.solvers.threads import one_blas_thread

FOLD_TOLERANCE: Final = 1e-4
"""Relative tolerance of cross-validation fits: a fit stops after a step that improves the objective by less than this
share. A further step would improve the objective by orders of magnitude less, and held-out scores are far noisier."""
_STEPS: Final = 60
_ROUNDING: Final = 1e-12
"""Relative change of the objective that counts as rounding error."""
_LEAST_STEP: Final = 1e-4

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Start = tuple[Floats, Floats]
"""Starting point of the solver: weights of the n rows for each of c columns (n, c), and intercepts (c,)."""


@dataclass(frozen=True)
class DualSolution:
    """Solution of one problem; ``decisions`` (n, c) are ``kernel @ weights + intercept``.

    ``weights``: (n, c) of the rows; ``intercept``: (c,); ``objective``: 0.5 * weights.T @ kernel @ weights + C * (sum
    of weighted losses), summed over the columns; ``converged``: whether for every column the last step left the set of
    rows inside the margin unchanged, or improved the objective by less than the tolerance; ``steps``: the largest
    number of Newton steps of a column.
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
    """Solve ``problems`` for the symmetric positive semi-definite ``kernel`` (n, n); return their solutions in order.

    The problems of a fold must be listed by increasing C: each problem starts from the solution of the previous
    problem, the first from ``start`` (zero if None). ``tol``: the solver also stops for a column after a step that
    improves the column's objective by less than this share.
    """
    weights = labels.weights_of(slice(None), np.float64)
    weights = np.ones(len(labels.codes)) if weights is None else weights
    solutions: dict[int, DualSolution] = {}
    # Use one BLAS thread: numpy and scipy each have a BLAS with its own thread pool. Idle BLAS threads busy-wait for
    # longer than most operations here take, so the two pools slow each other down by more than a factor of ten.
    with one_blas_thread():
        for fold in dict.fromkeys(problem.fold for problem in problems):
            own = [(place, problem) for place, problem in enumerate(problems) if problem.fold == fold]
            solved = _solve_fold(kernel, labels, weights, [problem for _, problem in own], tol, start)
            solutions |= dict(zip([place for place, _ in own], solved, strict=True))
    return [solutions[place] for place in range(len(problems))]


def _solve_fold(
    kernel: Floats, labels: Labels, row_weights: Floats, problems: list[Problem], tol: float, start: Start | None
) -> Iterator[DualSolution]:
    """Yield the solutions of ``problems``, all of which hold out the same fold."""
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
    """Return the submatrix (m, m) with the row and column numbers ``rows`` (m,); this is faster than np.ix_."""
    return matrix.take(rows, axis=0).take(rows, axis=1)


@dataclass(frozen=True)
class _State:
    """Current point of the optimisation of c problems: weights (c, m), intercepts (c,) and decision values (c, m)."""

    weights: Floats
    intercept: Floats
    decisions: Floats

    def of(self, chosen: NDArray[np.intp]) -> _State:
        return _State(self.weights[chosen], self.intercept[chosen], self.decisions[chosen])

    def toward(self, other: _State, share: Floats) -> _State:
        """Interpolate, column by column, between this point and ``other``; ``share`` (c,) is the fraction of the way."""
        b = share[:, None]
        return _State(
            (1 - b) * self.weights + b * other.weights,
            (1 - share) * self.intercept + share * other.intercept,
            (1 - b) * self.decisions + b * other.decisions,
        )


class _Machines:
    """One problem on its m training rows, all one-vs-rest columns (binary support vector machines) together.

    ``kernel``: (m, m); ``signs``: (c, m), +1 for rows of the column's class, else -1; ``strength``: (m,), C times the
    row weights.
    """

    def __init__(self, kernel: Floats, signs: Floats, strength: Floats) -> None:
        self.kernel, self.signs, self.strength = kernel, signs, strength
        self._ridge = 1.0 / (2.0 * strength)
        self._whole: tuple[Floats, Floats, Floats] | None = None
        """The inverse of kernel + ridge over all rows, and its products with the signs (c, m) and with ones (m,)."""

    def minimise(self, state: _State, tol: float) -> tuple[_State, float, bool, int]:
        """Run Newton's method from ``state``; return (optimum, its objective, whether all columns converged, steps)."""
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
        """Return the objective of each of the ``chosen`` columns (q,) at the point ``state``."""
        slack = np.maximum(0.0, 1.0 - self.signs[chosen] * state.decisions)
        penalty = np.einsum("qm,qm->q", state.weights, state.decisions - state.intercept[:, None])
        return np.asarray(0.5 * penalty + (slack * slack) @ self.strength)

    def _search(
        self, chosen: NDArray[np.intp], state: _State, values: Floats, target: _State
    ) -> tuple[_State, Floats, Floats]:
        """Do a line search from ``state`` to ``target``, for each chosen column separately.

        Returns the accepted point; and, for each column (q,), its objective and its step length.
        """
        step = np.ones(len(chosen))
        moved, found = target, self._values(chosen, target)
        while (worse := (found > values * (1 + _ROUNDING)) & (step > _LEAST_STEP)).any():
            step[worse] /= 2
            moved = state.toward(target, step)
            found = self._values(chosen, moved)
        return moved, found, step

    def _targets(self, chosen: NDArray[np.intp], inside: Mask, intercept: Floats) -> _State:
        """Return the minimum for each chosen column if the set of rows inside the margin stays ``inside`` (q, m).

        Let S = kernel + ridge on the rows inside the margin. At the minimum, S w + b = signs on these rows, w = 0 on
        the other rows, and the weights w sum to zero because the intercept b is not penalised. So w = S^-1 signs - b
        S^-1 1; one factorisation of S gives both terms. If no row is inside the margin, w = 0 and every b is optimal:
        the current ``intercept`` (q,) is kept.
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
        """Solve S w = signs and S w = 1 (see ``_targets``) with the inverse of kernel + ridge on all m rows; return (q,
        2, m).

        The solutions over all rows are then corrected so that rows outside the margin get weight 0.
        """
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
    # LAPACK works in place only on an array in Fortran order. The matrix is symmetric, so its transpose is equal, and
    # in Fortran order.
    factor = scipy.linalg.cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    return np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False))


def _invert(system: Floats) -> Floats:
    """Return the inverse of a positive definite matrix; the input is overwritten."""
    factor, lower = scipy.linalg.cho_factor(system.T, lower=True, overwrite_a=True, check_finite=False)
    inverse, info = scipy.linalg.lapack.dpotri(factor, lower=lower, overwrite_c=True)
    if info:
        raise np.linalg.LinAlgError("the kernel matrix is not positive definite")
    # LAPACK writes only the lower triangle of the inverse; copy it to the upper triangle.
    rest = np.tril(inverse, -1)
    return np.asarray(np.tril(inverse) + rest.T)


def score(labels: Labels, solutions: list[DualSolution]) -> FoldScores:
    """Return scores of each solution on the fold that it held out."""
    cells = []
    for solution in solutions:
        out = labels.scored_in(solution.problem.fold)
        codes, decisions = labels.codes[out], solution.decisions[out]
        hits = predict_codes(decisions) == codes
        recalls = [float(hits[codes == code].mean()) for code in np.unique(codes)]
        surprise = -log_softmax(decisions)[np.arange(len(codes)), codes]
        cells.append((len(codes), float(hits.mean()), float(np.mean(recalls)), float(surprise.mean())))
    table = np.array(cells)
    return FoldScores(table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3])


def held_out_decisions(labels: Labels, solutions: list[DualSolution]) -> tuple[Floats, NDArray[Any]]:
    """Return decision values (m, c) and class numbers (m,) of all held-out rows that are scored.

    The decision values of a row come from the solution that held out the row's fold. ``solutions``: one for each fold.
    """
    parts = [(s.decisions[out], labels.codes[out]) for s in solutions for out in [labels.scored_in(s.problem.fold)]]
    return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])


@dataclass(frozen=True)
class DualFit:
    """Result of ``search``: the choice of C, the factor of temperature scaling, the final fit."""

    choice: Choice
    scale: float
    final: DualSolution


def grid_problems(labels: Labels, candidates: list[float]) -> tuple[list[Problem], int]:
    """Return the problems of every C in ``candidates`` (outer loop) and fold (inner loop), and the number of folds."""
    present = np.unique(labels.folds[labels.folds >= 0])
    return [Problem(C, int(fold)) for C in candidates for fold in present], len(present)


def finish(kernel: Floats, labels: Labels, solutions: list[DualSolution], C: float) -> tuple[float, DualSolution]:
    """Return the factor of temperature scaling from the folds' ``solutions``, and the solution on all rows."""
    scale = fit_scale(*held_out_decisions(labels, solutions), labels.classes)
    mean = np.mean([s.weights for s in solutions], axis=0), np.mean([s.intercept for s in solutions], axis=0)
    return scale, solve(kernel, labels, [Problem(C, None)], start=mean)[0]


def search(kernel: Floats, labels: Labels, candidates: list[float], scoring: str) -> DualFit:
    """Choose C by cross-validation, fit temperature scaling on held-out decision values, and fit all rows."""
    problems, count = grid_problems(labels, candidates)
    solutions = solve(kernel, labels, problems, tol=FOLD_TOLERANCE)
    choice = choose({"C": candidates}, score(labels, solutions), count, scoring)
    best = solutions[choice.index * count : (choice.index + 1) * count]
    return DualFit(choice, *finish(kernel, labels, best, candidates[choice.index]))
