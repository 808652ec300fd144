"""Squared-hinge support vector machines from a kernel matrix, by Newton's method: exact, for a few thousand rows.

Chapelle, Training a Support Vector Machine in the Primal (Neural Computation 2007): on the rows inside the margin
the objective is quadratic, so one linear system gives its minimum, and the method ends when the set of those rows
stays as it is. It serves the RBF kernel and the linear one, where fewer rows than a first-order method's passes
would pay for make the problem small but badly conditioned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from featstore.heads.calibration import fit_scale, log_softmax
from featstore.heads.grid import FoldScores, predict_codes
from featstore.heads.losses import columns
from featstore.heads.passes import Problem
from featstore.heads.rows import Labels
from featstore.heads.selection import Choice, choose

_STEPS: Final = 60

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DualSolution:
    """Weights of the rows (n, c) and intercepts (c,): decisions are ``kernel @ weights + intercept``, here (n, c).

    ``objective``: 0.5 weights' kernel weights + C sum of weighted losses, over all columns; ``converged``: whether
    every column ended with its set of rows inside the margin unchanged.
    """

    problem: Problem
    weights: Floats
    intercept: Floats
    decisions: Floats
    objective: float
    converged: bool


def solve(kernel: Floats, labels: Labels, problems: list[Problem]) -> list[DualSolution]:
    """Solve ``problems`` for ``kernel`` (n, n), symmetric and positive semi-definite; solutions in order.

    Problems of one fold follow one another with rising C best: each starts where the one before ended.
    """
    count = columns(labels.classes)
    row_weights = labels.weights_of(labels.codes, np.float64)
    row_weights = np.ones(len(labels.codes)) if row_weights is None else row_weights
    last: dict[tuple[int | None, int], _State] = {}
    solutions = []
    for problem in problems:
        trained = (row_weights > 0) & (labels.folds != problem.fold if problem.fold is not None else True)
        states = []
        for column in range(count):
            sign = np.where(labels.codes == (1 if count == 1 else column), 1.0, -1.0)
            start = last.get((problem.fold, column)) or _State(np.zeros(len(sign)), 0.0, np.zeros(len(sign)))
            state = _minimise(kernel, sign, problem.C * row_weights, trained, start)
            last[problem.fold, column] = state
            states.append(state)
        solutions.append(
            DualSolution(
                problem,
                np.stack([s.weights for s in states], axis=1),
                np.array([s.intercept for s in states]),
                np.stack([s.decisions for s in states], axis=1),
                sum(s.objective for s in states),
                all(s.converged for s in states),
            )
        )
    return solutions


@dataclass(frozen=True)
class _State:
    weights: Floats
    intercept: float
    decisions: Floats
    objective: float = 0.0
    converged: bool = False

    def toward(self, other: _State, share: float) -> _State:
        """Return the point between this state and ``other``; all of it is linear."""
        a, b = 1 - share, share
        return _State(
            a * self.weights + b * other.weights,
            a * self.intercept + b * other.intercept,
            a * self.decisions + b * other.decisions,
        )

    def value(self, sign: Floats, strength: Floats, trained: NDArray[np.bool_]) -> float:
        """Return the objective; ``strength`` (n,) is C times the rows' weights."""
        slack = np.maximum(0.0, 1.0 - sign[trained] * self.decisions[trained])
        penalty = 0.5 * float(self.weights @ (self.decisions - self.intercept))
        return penalty + float(strength[trained] @ (slack * slack))


def _minimise(kernel: Floats, sign: Floats, strength: Floats, trained: NDArray[np.bool_], start: _State) -> _State:
    state, value = start, start.value(sign, strength, trained)
    converged = False
    for _ in range(_STEPS):
        active = np.flatnonzero(trained & (sign * state.decisions < 1))
        if not len(active):
            break
        target = _newton_target(kernel, sign, strength, active)
        step, moved = 1.0, target
        moved_value = moved.value(sign, strength, trained)
        while moved_value > value * (1 + 1e-12) and step > 1e-4:
            step /= 2
            moved = state.toward(target, step)
            moved_value = moved.value(sign, strength, trained)
        if moved_value > value * (1 + 1e-12):
            break
        state, value = moved, moved_value
        still = np.flatnonzero(trained & (sign * state.decisions < 1))
        if step == 1.0 and np.array_equal(still, active):
            converged = True
            break
    return _State(state.weights, state.intercept, state.decisions, value, converged)


def _newton_target(kernel: Floats, sign: Floats, strength: Floats, active: NDArray[np.intp]) -> _State:
    """Return the minimum of the quadratic that the objective is while just ``active`` rows are inside the margin."""
    system = kernel[np.ix_(active, active)]
    system[np.diag_indices_from(system)] += 1.0 / (2.0 * strength[active])
    factor = scipy.linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    right = np.stack([sign[active], np.ones(len(active))], axis=1)
    solved = scipy.linalg.cho_solve(factor, right, check_finite=False)
    # The intercept is free, so the weights of the rows sum to zero.
    intercept = float(solved[:, 0].sum() / solved[:, 1].sum())
    weights = np.zeros(len(sign))
    weights[active] = solved[:, 0] - intercept * solved[:, 1]
    return _State(weights, intercept, kernel[:, active] @ weights[active] + intercept)


def score(labels: Labels, solutions: list[DualSolution]) -> FoldScores:
    """Score each solution on the fold that it did not see."""
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
    """Return decision values (m, c) of all held-out rows by the fold's solution, and their class numbers (m,)."""
    parts = [(s.decisions[out], labels.codes[out]) for s in solutions for out in [labels.folds == s.problem.fold]]
    return np.concatenate([p for p, _ in parts]), np.concatenate([c for _, c in parts])


@dataclass(frozen=True)
class DualFit:
    """A finished search: index of the chosen C and table of results, the calibration's scale, the final solution."""

    choice: Choice
    scale: float
    final: DualSolution


def grid_problems(labels: Labels, candidates: list[float]) -> tuple[list[Problem], int]:
    """Return the problems of every C (outer, rising) and fold (inner), and the number of folds."""
    present = np.unique(labels.folds[labels.folds >= 0])
    return [Problem(C, int(fold)) for C in candidates for fold in present], len(present)


def finish(kernel: Floats, labels: Labels, solutions: list[DualSolution], C: float) -> tuple[float, DualSolution]:
    """Return the calibration's scale from the folds' ``solutions`` for ``C``, and the solution on all rows."""
    scale = fit_scale(*held_out_decisions(labels, solutions), labels.classes)
    return scale, solve(kernel, labels, [Problem(C, None)])[0]


def search(kernel: Floats, labels: Labels, candidates: list[float], scoring: str) -> DualFit:
    """Choose C by cross-validation, calibrate on held-out decisions, and fit all rows."""
    problems, count = grid_problems(labels, candidates)
    solutions = solve(kernel, labels, problems)
    choice = choose({"C": candidates}, score(labels, solutions), count, scoring)
    best = solutions[choice.index * count : (choice.index + 1) * count]
    return DualFit(choice, *finish(kernel, labels, best, candidates[choice.index]))
