"""The grid in one pass: all values of C and all folds of an L2-regularised linear classifier, solved together.

Each problem is scikit-learn's: minimise ``0.5 ||W||^2 + C sum_i weight_i loss(W x_i + b, y_i)`` over W and b (b is
not penalised), on the rows outside one fold. The problems take L-BFGS steps side by side, so that each pass over
the rows serves all of them with two matrix-matrix products, and leave as they converge. The initial inverse
Hessian comes from the features' spectrum (see whitening), scaled for each problem by its C and rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.lbfgs import Lbfgs
from featstore.heads.losses import LOGISTIC, Loss, columns
from featstore.heads.passes import Problem, Selection, evaluate, workers_for
from featstore.heads.rows import TrainingRows
from featstore.heads.whitening import Spectrum

MAX_PASSES: Final = 1000


@dataclass(frozen=True)
class Solution:
    """Weights (r, c) and intercept (c,) in the coordinates of the rows, with how good they are.

    ``objective`` is the value reached, ``gap`` the estimated distance to the optimum, ``converged`` whether it
    came under the tolerance, ``evaluations`` how many passes the problem took part in.
    """

    problem: Problem
    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    objective: float
    gap: float
    converged: bool
    evaluations: int


def solve(
    rows: TrainingRows,
    loss: Loss,
    problems: list[Problem],
    *,
    tol: float = 1e-6,
    max_passes: int = MAX_PASSES,
    starts: list[NDArray[np.float64]] | None = None,
) -> list[Solution]:
    """Solve ``problems`` together; return their solutions in order.

    ``tol``: a problem is finished when its estimated gap is at most ``tol`` times its objective.
    ``starts``: (r + 1, c) arrays, weights with the intercept below; zeros when None.
    """
    count = columns(rows.labels.classes)
    noise = 1e-7 if rows.dtype == np.float32 else 1e-13
    solvers, whiteners = [], []
    for index in range(len(problems)):
        start = np.zeros((rows.dimension + 1, count)) if starts is None else starts[index]
        whiteners.append(_Whitener(rows.spectrum))
        solvers.append(Lbfgs(start, whiteners[-1], tol=tol, noise=noise))
    with workers_for(rows) as workers:
        for _ in range(max_passes):
            active = [index for index, solver in enumerate(solvers) if not solver.done]
            if not active:
                break
            points = np.stack([solvers[index].point for index in active], axis=1)
            found = evaluate(rows, loss, [problems[index] for index in active], points, workers)
            for position, index in enumerate(active):
                whiteners[index].scale = float(found.curvatures[position])
                solvers[index].tell(float(found.values[position]), np.ascontiguousarray(found.gradients[:, position]))
    return [_solution(problem, solver) for problem, solver in zip(problems, solvers, strict=True)]


def _solution(problem: Problem, solver: Lbfgs) -> Solution:
    best = solver.best
    return Solution(problem, best[:-1], best[-1], solver.value, solver.gap, solver.done, solver.evaluations)


@dataclass(frozen=True)
class Effort:
    """What solving cost: passes over the rows, and floating-point operations of their matrix products."""

    passes: int = 0
    operations: float = 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.passes + other.passes, self.operations + other.operations)


def effort(rows: TrainingRows, solutions: list[Solution]) -> Effort:
    """Return what ``solutions``, solved together, cost: four operations a row, dimension and column an evaluation."""
    folds = rows.labels.folds
    trained = {fold: int((folds != fold).sum()) for fold in np.unique(folds)}
    operations = 0.0
    for solution in solutions:
        fold = solution.problem.fold
        count = len(folds) if fold is None else trained[fold]
        operations += 4.0 * count * solution.weights.size * solution.evaluations
    return Effort(max(solution.evaluations for solution in solutions), operations)


class _Whitener:
    """The inverse of ``I + scale * Gram`` for one problem; ``scale`` is C times the loss's curvature where it stands."""

    def __init__(self, spectrum: Spectrum) -> None:
        self.scale = 1.0
        self._spectrum = spectrum

    def __call__(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.empty_like(gradient)
        out[:-1] = self._spectrum.solve(self.scale, gradient[:-1])
        out[-1] = gradient[-1] / self.scale
        return out


@dataclass(frozen=True)
class FoldScores:
    """Held-out scores of each problem (p,): rows, accuracy, balanced accuracy, log loss (of softmax/sigmoid)."""

    rows: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    balanced_accuracy: NDArray[np.float64]
    log_loss: NDArray[np.float64]


def score(rows: TrainingRows, solutions: list[Solution]) -> FoldScores:
    """Score each solution on the fold that it did not see, in one pass over the rows."""
    points = np.stack([np.vstack([s.weights, s.intercept]) for s in solutions], axis=1)
    classes = rows.labels.classes
    right = np.zeros((len(solutions), classes), np.int64)
    seen = np.zeros((len(solutions), classes), np.int64)
    surprise = np.zeros(len(solutions))
    selections: dict[int, Selection] = {}
    for segment in rows.segments():
        if segment.fold not in selections:
            chosen = [i for i, solution in enumerate(solutions) if solution.problem.fold == segment.fold]
            selections[segment.fold] = Selection(chosen, points, rows.dtype)
        selection = selections[segment.fold]
        if not selection.chosen:
            continue
        decisions = selection.decide(segment.values)
        hits = predict_codes(decisions) == segment.codes[:, None]
        for position, index in enumerate(selection.chosen):
            right[index] += np.bincount(segment.codes[hits[:, position]], minlength=classes)
        seen[selection.chosen] += np.bincount(segment.codes, minlength=classes)
        surprise[selection.chosen] += LOGISTIC.evaluate(decisions, segment.codes, None)[0]
    total = seen.sum(axis=1)
    recall = np.where(seen > 0, right / np.maximum(seen, 1), np.nan)
    return FoldScores(total, right.sum(axis=1) / total, np.nanmean(recall, axis=1), surprise / total)


def predict_codes(decisions: NDArray[Any]) -> NDArray[np.intp]:
    """Return class numbers (...) from decision values (..., c)."""
    if decisions.shape[-1] == 1:
        return (decisions[..., 0] > 0).astype(np.intp)
    return np.asarray(decisions.argmax(axis=-1))


def held_out_decisions(rows: TrainingRows, solutions: list[Solution]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return decision values (m, c) of all rows by the solution that did not see them, and the row numbers (m,).

    ``solutions``: one for each fold. Rows that are in every training part (fold -1) are left out.
    """
    points = np.stack([np.vstack([s.weights, s.intercept]) for s in solutions], axis=1)
    by_fold = {s.problem.fold: Selection([i], points, rows.dtype) for i, s in enumerate(solutions)}
    decisions, numbers = [], []
    for segment in rows.segments():
        if segment.fold in by_fold:
            decisions.append(by_fold[segment.fold].decide(segment.values)[:, 0].astype(np.float64))
            numbers.append(segment.rows)
    return np.concatenate(decisions), np.concatenate(numbers)
