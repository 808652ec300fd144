"""Solve all values of C and all folds of an L2-regularised linear classifier together, in shared passes over the rows.

A problem is a value of C and a held-out fold. Its objective is scikit-learn's: minimise
``0.5 ||W||^2 + C sum_i weight_i loss(W x_i + b, y_i)`` over W and b (b is not penalised), on the rows outside the fold.
All problems take their L-BFGS steps at the same time: each pass over the rows evaluates all problems with two
matrix-matrix products. A pass leaves out the problems that have converged. The initial inverse Hessian comes from the
spectrum of the features (see whitening.py), scaled for each problem by C times the curvature of the loss.

Letters in shapes: p problems, c columns (of decision values) per problem, m rows, r dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.solvers.lbfgs import Lbfgs
from featstore.heads.solvers.losses import LOGISTIC, Loss, columns, predict_codes
from featstore.heads.solvers.passes import Problem, Selection, evaluate, workers_for
from featstore.heads.solvers.rows import TrainingRows, scored_segments
from featstore.heads.solvers.whitening import Spectrum

Pair = tuple[NDArray[Any], NDArray[Any]]

MAX_PASSES: Final = 1000


@dataclass(frozen=True)
class Solution:
    """Solution of one problem: weights (r, c) and intercept (c,), in the coordinates of the TrainingRows.

    r is the number of dimensions and c the number of columns (see Loss). ``objective``: the value reached; ``gap``: estimated difference to the optimal value; ``converged``: whether the
    solver stopped because of its tolerance; ``evaluations``: number of passes used; ``pairs``: the last steps
    (c, r + 1) and the changes of the gradient, which can initialise L-BFGS for a similar problem.
    """

    problem: Problem
    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    objective: float
    gap: float
    converged: bool
    evaluations: int
    pairs: list[Pair]


@dataclass(frozen=True)
class Start:
    """Starting point of a problem: weights with the intercept last (c, r + 1), and L-BFGS curvature pairs."""

    point: NDArray[Any]
    pairs: list[Pair]


def start_from(solutions: list[Solution], ratio: float) -> Start:
    """Return the mean of ``solutions`` as starting point of a similar problem.

    ``ratio``: summed loss of the new problem, divided by that of a solved problem. For example, ``ratio`` is 5/4 if
    each of 5 solutions held out one fold, and the new problem trains on all rows.
    """
    mean = np.mean([np.vstack([s.weights, s.intercept]).T for s in solutions], axis=0)
    return Start(mean, _carried(solutions[0].pairs, ratio))


def solve(
    rows: TrainingRows,
    loss: Loss,
    problems: list[Problem],
    *,
    tol: float = 1e-6,
    max_passes: int = MAX_PASSES,
    start: Start | Mapping[int, Start] | None = None,
) -> list[Solution]:
    """Solve ``problems`` together; return their solutions in order.

    ``tol``: the solver stops for a problem when the estimated gap to the optimum is at most ``tol`` times the
    objective, or after ``max_passes``. ``start``: starting point for the smallest C of each fold, or of each column of
    label sets; zeros if None. Each larger C of a fold starts from the solutions for smaller C.
    """
    if start is None:
        start = Start(np.zeros((columns(rows.labels.classes), rows.dimension + 1)), [])
    searches = [_Search(rows, problem, tol, max_passes) for problem in problems]
    paths = _paths(problems, searches)
    for path in paths:
        path[0].begin(start if isinstance(start, Start) else start[_column(path[0].problem)])
    with workers_for(rows) as workers:
        while True:
            active = [search for path in paths if (search := _current(path, loss)) is not None]
            if not active:
                break
            points = np.stack([search.solver.point for search in active])
            found = evaluate(rows, loss, [search.problem for search in active], points, workers)
            told = zip(active, found.values.tolist(), found.gradients, found.curvatures.tolist(), strict=True)
            workers.run(
                (turn % workers.count, partial(search.tell, *rest)) for turn, (search, *rest) in enumerate(told)
            )
    return [search.solution() for search in searches]


def _column(problem: Problem) -> int:
    assert problem.column is not None
    return problem.column


def _paths(problems: list[Problem], searches: list[_Search]) -> list[list[_Search]]:
    """Return a list of paths. A path is the list of searches (solver runs) of one fold and column, sorted by C."""
    by_fold: dict[tuple[int | None, int | None], list[_Search]] = {}
    for problem, search in sorted(zip(problems, searches, strict=True), key=lambda pair: pair[0].C):
        by_fold.setdefault((problem.fold, problem.column), []).append(search)
    return list(by_fold.values())


def _current(path: list[_Search], loss: Loss) -> _Search | None:
    """Return the first unfinished search (solver run) of ``path``, the searches of one fold; None if all are finished.

    If this search has not begun, it is started from the solutions of the earlier searches of the path.
    """
    for number, search in enumerate(path):
        if not search.begun:
            search.begin(_continued(path[:number], search.problem.C, loss))
        if not search.over:
            return search
    return None


def _continued(before: list[_Search], C: float, loss: Loss) -> Start:
    """Return a starting point for the value ``C``, extrapolated from ``before``: finished searches for smaller values."""
    last = before[-1]
    point = last.solver.best
    if loss.grows and len(before) > 1:
        step = np.log(last.problem.C / before[-2].problem.C)
        factor = min(1.0, np.log(C / last.problem.C) / step) if step > 0 else 0.0
        point = point + point.dtype.type(factor) * (point - before[-2].solver.best)
    return Start(point, _carried(last.solver.pairs, C / last.problem.C))


def _carried(pairs: list[Pair], ratio: float) -> list[Pair]:
    """Return L-BFGS ``pairs`` rescaled for a problem with ``ratio`` times the summed loss and the same penalty."""
    carried = []
    for step, change in pairs:
        scaled = change * change.dtype.type(ratio)
        scaled[:, :-1] += change.dtype.type(1.0 - ratio) * step[:, :-1]
        carried.append((step, scaled))
    return carried


class _Search:
    """One problem being solved: its L-BFGS iteration and preconditioner."""

    def __init__(self, rows: TrainingRows, problem: Problem, tol: float, max_passes: int) -> None:
        self.problem = problem
        self._rows, self._tol, self._max_passes = rows, tol, max_passes
        self._whitener = _Whitener(rows.spectrum)
        self.begun = False
        self.solver: Lbfgs

    def begin(self, start: Start) -> None:
        noise = 1e-7 if self._rows.dtype == np.float32 else 1e-13
        point = np.ascontiguousarray(start.point, self._rows.dtype)
        self.solver = Lbfgs(point, self._whitener, tol=self._tol, noise=noise, pairs=start.pairs)
        self.begun = True

    @property
    def over(self) -> bool:
        """Whether the solver of this problem has converged, or has used all its passes over the rows."""
        return self.solver.done or self.solver.evaluations >= self._max_passes

    def tell(self, value: float, gradient: NDArray[np.float64], curvature: float) -> None:
        """Take objective, gradient and curvature at the current point; compute the next point of the L-BFGS
        iteration."""
        self._whitener.scale = curvature
        self.solver.tell(value, gradient.astype(self._rows.dtype))

    def solution(self) -> Solution:
        """Return the best solution of this problem that was found so far."""
        solver = self.solver
        best = solver.best.T.astype(np.float64)
        return Solution(
            self.problem, best[:-1], best[-1], solver.value, solver.gap, solver.done, solver.evaluations, solver.pairs
        )


@dataclass(frozen=True)
class Effort:
    """Cost of solving: passes over the rows, and floating-point operations in matrix products."""

    passes: int = 0
    operations: float = 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.passes + other.passes, self.operations + other.operations)


def effort(rows: TrainingRows, solutions: list[Solution]) -> Effort:
    """Return the cost of solving ``solutions`` together.

    An evaluation counts four operations for each row, dimension and column.
    """
    folds = rows.labels.folds
    trained = {fold: int((folds != fold).sum()) for fold in np.unique(folds)}
    operations = 0.0
    passes: Counter[tuple[int | None, int | None]] = Counter()
    for solution in solutions:
        fold = solution.problem.fold
        count = len(folds) if fold is None else trained[fold]
        operations += 4.0 * count * solution.weights.size * solution.evaluations
        passes[fold, solution.problem.column] += solution.evaluations
    return Effort(max(passes.values()), operations)


class _Whitener:
    """Preconditioner of one problem: multiplies a gradient by the inverse of ``I + scale * Gram``.

    ``scale``: C times the current summed curvature of the loss.
    """

    def __init__(self, spectrum: Spectrum) -> None:
        self.scale = 1.0
        self._spectrum = spectrum

    def __call__(self, gradient: NDArray[Any]) -> NDArray[Any]:
        out = np.empty_like(gradient)
        out[:, :-1] = self._spectrum.solve(self.scale, gradient[:, :-1])
        out[:, -1] = gradient[:, -1] / self.scale
        return out


@dataclass(frozen=True)
class FoldScores:
    """Held-out scores of each problem (p,). ``log_loss``: of the softmax or sigmoid of the decision values."""

    rows: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    balanced_accuracy: NDArray[np.float64]
    log_loss: NDArray[np.float64]


def score(rows: TrainingRows, solutions: list[Solution]) -> FoldScores:
    """Return scores of each solution on the fold that it held out, in one pass over the rows."""
    points = np.stack([np.vstack([s.weights, s.intercept]).T for s in solutions])
    classes = rows.labels.classes
    right = np.zeros((len(solutions), classes), np.int64)
    seen = np.zeros((len(solutions), classes), np.int64)
    surprise = np.zeros(len(solutions))
    selections: dict[int, Selection] = {}
    for segment in scored_segments(rows):
        if segment.fold not in selections:
            chosen = [i for i, solution in enumerate(solutions) if solution.problem.fold == segment.fold]
            selections[segment.fold] = Selection(chosen, points, rows.dtype)
        selection = selections[segment.fold]
        if not selection.chosen:
            continue
        decisions = selection.decide(segment.values)
        hits = predict_codes(decisions, axis=0) == segment.codes
        for position, index in enumerate(selection.chosen):
            right[index] += np.bincount(segment.codes[hits[position]], minlength=classes)
        seen[selection.chosen] += np.bincount(segment.codes, minlength=classes)
        surprise[selection.chosen] += LOGISTIC.evaluate(decisions, segment.codes, None)[0]
    total = seen.sum(axis=1)
    recall = np.where(seen > 0, right / np.maximum(seen, 1), np.nan)
    return FoldScores(total, right.sum(axis=1) / total, np.nanmean(recall, axis=1), surprise / total)


def held_out_decisions(rows: TrainingRows, solutions: list[Solution]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return decision values (m, c) and row numbers (m,) of all held-out rows that are scored.

    The decision values of a row come from the solution that held out the row's fold. ``solutions``: one for each fold.
    Rows of fold -1 are never held out, so they are not in the result.
    """
    points = np.stack([np.vstack([s.weights, s.intercept]).T for s in solutions])
    by_fold = {s.problem.fold: Selection([i], points, rows.dtype) for i, s in enumerate(solutions)}
    decisions, numbers = [], []
    for segment in scored_segments(rows):
        if segment.fold in by_fold:
            decisions.append(by_fold[segment.fold].decide(segment.values)[:, 0].T.astype(np.float64))
            numbers.append(segment.rows)
    return np.concatenate(decisions), np.concatenate(numbers)
