"""Choose a head's parameters by cross-validation, and make the table of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DataError
from featstore.heads.solvers.grid import FoldScores

SCORINGS = ("accuracy", "balanced_accuracy", "neg_log_loss")


@dataclass(frozen=True)
class Choice:
    """Result of choosing parameters by cross-validation.

    ``index``: number of the chosen candidate; ``results``: scores of all candidates, like scikit-learn's
    ``cv_results_``.
    """

    index: int
    results: dict[str, Any]


def score(probabilities: NDArray[np.float64], codes: NDArray[np.integer[Any]]) -> tuple[int, float, float, float]:
    """Return (number of rows, accuracy, balanced accuracy, log loss) of ``probabilities`` (n, k).

    ``codes``: true class numbers (n,).
    """
    hits = probabilities.argmax(axis=1) == codes
    recalls = [float(hits[codes == code].mean()) for code in np.unique(codes)]
    own = np.maximum(probabilities[np.arange(len(codes)), codes], np.finfo(np.float64).eps)
    return len(codes), float(hits.mean()), float(np.mean(recalls)), -float(np.log(own).mean())


def choose(
    parameters: Mapping[str, Sequence[float]],
    scores: FoldScores,
    folds: int,
    scoring: str,
    *,
    ties_by_log_loss: bool = False,
) -> Choice:
    """Choose the candidate with the best mean score over the folds.

    ``parameters``: the g candidates, as one array (g,) for each parameter; simplest models first. ``scores``: one array
    of g x ``folds`` values for each measure (accuracy, ...), sorted by candidate, then by fold. ``scoring``: the
    measure that decides. If several candidates have the best mean score, the first of them is chosen, or with
    ``ties_by_log_loss`` the one with the smallest log loss.
    """
    if scoring not in SCORINGS:
        raise DataError(f"scoring must be one of {', '.join(SCORINGS)}, not {scoring!r}")
    table: dict[str, Any] = {f"param_{name}": np.asarray(values) for name, values in parameters.items()}
    measured = {
        "accuracy": scores.accuracy,
        "balanced_accuracy": scores.balanced_accuracy,
        "neg_log_loss": -scores.log_loss,
    }
    for name, values in measured.items():
        by_fold = values.reshape(-1, folds)
        table[f"mean_{name}"] = by_fold.mean(axis=1)
        table[f"std_{name}"] = by_fold.std(axis=1)
        if name == scoring:
            table |= {f"split{fold}_{name}": by_fold[:, fold] for fold in range(folds)}
    mean: NDArray[np.float64] = table[f"mean_{scoring}"]
    # Mean scores that differ only by rounding count as equal.
    equal = np.flatnonzero(mean >= mean.max() - 1e-12)
    best = int(equal[np.argmax(table["mean_neg_log_loss"][equal])]) if ties_by_log_loss else int(equal[0])
    return Choice(best, table | {"scoring": scoring, "folds": folds})
