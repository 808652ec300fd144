"""Solve one logistic regression for each label of label sets, all in shared passes over the rows.

A problem is a value of C, a held-out fold and a label. The solver of grid.py takes the steps of all problems together,
so each pass over the rows serves all labels; labels that have converged leave the passes. If there are very many
labels, they are solved in groups, so that the vectors of the solver have a bounded size. Other memory grows with the
number of labels k: label sets of n rows take n * k bytes, copied about four times; the solutions of cross-validation
take 4 bytes for each value of C, fold, label and dimension; held-out decision values take 4 * n * k bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore import splits
from featstore.heads.solvers import grid
from featstore.heads.solvers.losses import LOGISTIC
from featstore.heads.solvers.passes import Problem, Selection
from featstore.heads.solvers.rows import TrainingRows, scored_segments

_VECTORS: Final = 26
"""Number of weight vectors that the solver keeps for each problem: ten pairs, and the current points."""


def rarest_label(sets: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return for each row of ``sets`` (n, k) its rarest label, or k for a row without labels: strata for splits."""
    counts = sets.sum(axis=0, dtype=np.int64)
    by_rarity = np.argsort(counts, kind="stable")
    ranked = sets[:, by_rarity]
    rarest = np.where(ranked.any(axis=1), by_rarity[ranked.argmax(axis=1)], sets.shape[1])
    return np.asarray(rarest, np.intp)


def keep_trained(sets: NDArray[np.uint8], folds: NDArray[np.intp], groups: Any = None) -> NDArray[np.intp]:
    """Return ``folds`` (n,), with -1 for rows that must be in every training part.

    With these rows, every training part has rows with and without each label.

    ``sets``: (n, k); ``groups``: (n,) rows of one group get -1 together. Raises DataError if no row is left to hold
    out.
    """
    needed = np.zeros(len(folds), bool)
    total = sets.sum(axis=0, dtype=np.int64)
    for fold in np.unique(folds[folds >= 0]):
        inside = folds == fold
        found = sets[inside].sum(axis=0, dtype=np.int64)
        for label in np.flatnonzero(found == total):
            needed |= inside & (sets[:, label] == 1)
        for label in np.flatnonzero(int(inside.sum()) - found == len(sets) - total):
            needed |= inside & (sets[:, label] == 0)
    return splits.always_trained(folds, needed, groups)


@dataclass(frozen=True)
class HeldOut:
    """Result of cross-validation.

    ``log_loss`` and ``accuracy``: (number of values of C, folds), averaged over the labels. ``weights``: (number of Cs,
    folds, k, r + 1), the intercept last. ``effort``: of all fits together.
    """

    log_loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    weights: NDArray[np.float32]
    effort: grid.Effort


def cross_validate(rows: TrainingRows, Cs: Sequence[float], *, tol: float, memory: int) -> HeldOut:
    """Solve the problem of every C, fold and label of ``rows``, and score each solution on the fold that it held out.

    ``tol``: as in grid.solve; ``memory``: bytes for the solutions and the solver's vectors together. If the solutions
    take more than three quarters of it, the vectors may take another quarter.
    """
    folds = np.unique(rows.labels.folds[rows.labels.folds >= 0])
    labels = rows.labels.codes.shape[1]
    weights = np.empty((len(Cs), len(folds), labels, rows.dimension + 1), np.float32)
    memory = int(max(memory - weights.nbytes, memory // 4))
    losses, hits = np.zeros((2, len(Cs), len(folds)))
    spent = grid.Effort()
    for part in _parts(rows, labels, len(Cs) * len(folds), memory):
        problems = [Problem(C, int(fold), int(column)) for C in Cs for fold in folds for column in part]
        solutions = grid.solve(rows, LOGISTIC, problems, tol=tol)
        spent += grid.effort(rows, solutions)
        points = np.stack([np.append(s.weights, s.intercept) for s in solutions])
        weights[:, :, part] = points.reshape(len(Cs), len(folds), len(part), -1)
        loss, right = _score(rows, problems, points[:, None])
        losses += loss.reshape(len(Cs), len(folds), -1).sum(axis=2)
        hits += right.reshape(len(Cs), len(folds), -1).sum(axis=2)
    sizes = np.array([np.count_nonzero(rows.labels.scored_in(int(fold))) for fold in folds]) * labels
    return HeldOut(losses / sizes, hits / sizes, weights, spent)


def solve_all(
    rows: TrainingRows, C: float, start: NDArray[np.float32] | None, *, tol: float, memory: int
) -> tuple[list[grid.Solution], grid.Effort]:
    """Train each label's model on all rows; return the solutions in the order of the labels, and the effort.

    ``start``: (k, r + 1) weights to start from, the intercept last; zeros if None.
    """
    labels = rows.labels.codes.shape[1]
    starts = np.zeros((labels, rows.dimension + 1), np.float32) if start is None else start
    solved: list[grid.Solution] = []
    spent = grid.Effort()
    for part in _parts(rows, labels, 1, memory):
        problems = [Problem(C, None, int(column)) for column in part]
        begun = {int(column): grid.Start(starts[column][None], []) for column in part}
        found = grid.solve(rows, LOGISTIC, problems, tol=tol, start=begun)
        spent += grid.effort(rows, found)
        solved += found
    return solved, spent


def held_out_decisions(rows: TrainingRows, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return decision values (n, k) of all rows, each from the model that held out the row's fold.

    ``weights``: (folds, k, r + 1). Rows that are not scored are NaN, and so are rows of fold -1.
    """
    folds = np.unique(rows.labels.folds[rows.labels.folds >= 0])
    out = np.full(rows.labels.codes.shape, np.nan, np.float32)
    by_fold = {int(fold): Selection([0], one[None], rows.dtype) for fold, one in zip(folds, weights, strict=True)}
    for segment in scored_segments(rows):
        if segment.fold in by_fold:
            out[segment.rows] = by_fold[segment.fold].decide(segment.values)[:, 0].T
    return out


def _parts(rows: TrainingRows, labels: int, problems: int, memory: int) -> list[NDArray[np.intp]]:
    """Return the labels in groups that are solved together; ``problems``: number of problems of each label."""
    size = problems * _VECTORS * (rows.dimension + 1) * rows.dtype.itemsize
    count = max(1, min(labels, memory // size))
    return np.array_split(np.arange(labels), -(-labels // count))


def _score(
    rows: TrainingRows, problems: list[Problem], points: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the summed log loss (p,), and the number of right decisions (p,), of each problem on its held-out fold."""
    losses, hits = np.zeros((2, len(problems)))
    selections: dict[int, Selection] = {}
    for segment in scored_segments(rows):
        if segment.fold not in selections:
            chosen = [i for i, problem in enumerate(problems) if problem.fold == segment.fold]
            selections[segment.fold] = Selection(chosen, points, rows.dtype, problems)
        selection = selections[segment.fold]
        if selection.chosen:
            decisions = selection.decide(segment.values)
            codes = selection.codes_of(segment.codes)
            hits[selection.chosen] += ((decisions[0] > 0) == (codes == 1)).sum(axis=1)
            losses[selection.chosen] += LOGISTIC.evaluate(decisions, codes, None)[0]
    return losses, hits
