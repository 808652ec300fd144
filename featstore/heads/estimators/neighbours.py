"""Nearest neighbours as a scikit-learn classifier: cosine similarity, weighted vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore import defaults
from featstore.errors import DataError
from featstore.heads import models, rowwise
from featstore.heads.estimators.inputs import assign_folds, check_training, scored_rows, seed_of
from featstore.heads.estimators.linear import ModelHead
from featstore.heads.solvers.blocks import block_rows, iterate, measure
from featstore.heads.solvers.grid import FoldScores
from featstore.heads.solvers.selection import choose, score


class KNNHead(ModelHead):
    """Weighted vote of the nearest training rows by cosine similarity of centred features.

    Parameters
    ----------
    n_neighbors : int or "auto"
        Number of neighbours that vote. "auto" chooses among ``candidates`` by cross-validation.
    candidates : sequence of int
        Numbers of neighbours that "auto" tries.
    temperature : float
        A neighbour's vote has the weight ``exp((cosine - 1) / temperature)``, as in DINO.
    cv : int or float
        Number of stratified folds, or the fraction of rows to hold out once.
    scoring : "accuracy", "balanced_accuracy" or "neg_log_loss"
        Score that cross-validation maximises.
    memory_limit : int
        Largest size of the training vectors in bytes; the model keeps all of them.
    random_state : int, RandomState or None
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Class labels, sorted.
    feature_identity_ : dict or None
        Identity of the training features (see ``featstore.FeatureArray``); prediction refuses any other identity.
    n_neighbors_ : int
        The given or chosen number of neighbours.
    cv_results_ : dict
        Scores of each number of neighbours, as in scikit-learn's ``GridSearchCV``. Present if cross-validation ran.
    model_ : NeighboursModel
        The fitted model in numpy alone.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from featstore.heads import KNNHead
    >>> X, y = load_iris(return_X_y=True)
    >>> head = KNNHead(n_neighbors=5).fit(X, y)
    >>> head.predict(X[:2])
    array([0, 0])
    >>> head.predict_proba(X[:2]).shape
    (2, 3)
    """

    def __init__(
        self,
        n_neighbors: int | str = "auto",
        *,
        candidates: Sequence[int] = defaults.HEAD_NEIGHBOURS,
        temperature: float = defaults.VOTE_TEMPERATURE,
        cv: int | float = defaults.FOLDS,
        scoring: str = "accuracy",
        memory_limit: int = defaults.HEAD_MEMORY,
        random_state: Any = defaults.SEED,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.candidates = candidates
        self.temperature = temperature
        self.cv = cv
        self.scoring = scoring
        self.memory_limit = memory_limit
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, groups: ArrayLike | None = None, scored: ArrayLike | None = None) -> Self:
        """Fit on ``X`` (n, d) and ``y`` (n,); ``groups``, ``scored`` and the raised errors are as in LogisticHead."""
        X, codes, self.classes_ = check_training(self, X, y)
        need = X.shape[0] * X.shape[1] * 4
        if need > self.memory_limit:
            raise DataError(
                f"nearest neighbours keep all training vectors, {need / 2**30:.1f} GiB here; raise memory_limit, "
                "or use a linear head or an index"
            )
        if not self.temperature > 0:
            raise DataError(f"temperature must be positive, not {self.temperature}")
        centre, rows, _ = measure(X, standardize=False)
        vectors = np.empty((rows, X.shape[1]), np.float32)
        start = 0
        for block in iterate(X):
            vectors[start : start + len(block)] = rowwise.unit_rows(block, centre.mean)
            start += len(block)
        codes = codes.astype(np.int64)
        numbers = self._numbers()
        self.n_neighbors_ = min(numbers[0], rows)
        if len(numbers) > 1:
            folds = assign_folds(codes.astype(np.intp), groups, self.cv, seed_of(self.random_state))
            scores = _scores(
                vectors, codes, folds, scored_rows(scored, folds), numbers, self.temperature, len(self.classes_)
            )
            choice = choose({"n_neighbors": numbers}, scores, len(np.unique(folds[folds >= 0])), self.scoring)
            self.n_neighbors_ = min(numbers[choice.index], rows)
            self.cv_results_ = choice.results
        self.model_ = models.NeighboursModel(
            vectors, codes, centre.mean, self.n_neighbors_, float(self.temperature), len(self.classes_)
        )
        return self

    def _numbers(self) -> list[int]:
        auto = isinstance(self.n_neighbors, str)
        if isinstance(self.n_neighbors, str) and self.n_neighbors != "auto":
            raise DataError(f"n_neighbors must be a positive number or 'auto', not {self.n_neighbors!r}")
        numbers = sorted(int(n) for n in (self.candidates if auto else [self.n_neighbors]))
        if not numbers or numbers[0] < 1:
            raise DataError("n_neighbors must be at least 1")
        return numbers


def _scores(
    vectors: NDArray[np.float32],
    codes: NDArray[np.int64],
    folds: NDArray[np.intp],
    scored: NDArray[np.bool_] | None,
    numbers: list[int],
    temperature: float,
    classes: int,
) -> FoldScores:
    """Return the scores of each number of neighbours (first axis) in each fold (second axis). One search per fold gives
    all of them.
    """
    cells: list[tuple[int, float, float, float]] = []
    present = np.unique(folds[folds >= 0])
    for fold in present:
        inside = folds == fold
        shares = {number: np.empty((0, classes)) for number in numbers}
        rows = np.flatnonzero(inside if scored is None else inside & scored)
        step = block_rows(vectors.shape[1])
        for start in range(0, len(rows), step):
            queries = vectors[rows[start : start + step]]
            similarity, index = rowwise.nearest(queries, vectors, min(numbers[-1], int((~inside).sum())), inside)
            for number in numbers:
                votes = models.vote(similarity[:, :number], codes[index[:, :number]], temperature, classes)
                shares[number] = np.concatenate([shares[number], votes])
        cells += [score(shares[number], codes[rows]) for number in numbers]
    table = np.array(cells).reshape(len(present), len(numbers), 4).transpose(1, 0, 2).reshape(-1, 4)
    return FoldScores(table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3])
