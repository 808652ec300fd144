"""Logistic regression for label sets (multi-label classification), as a scikit-learn classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from featstore import defaults
from featstore.blocks import Features
from featstore.heads import models
from featstore.heads.estimators.inputs import (
    assign_folds,
    candidates,
    check_features,
    check_label_sets,
    check_training,
    fixed_threshold,
    is_indicator,
    scored_rows,
    seed_of,
)
from featstore.heads.label_sets import LabelSetsModel, best_thresholds, sigmoid
from featstore.heads.solvers import grid, one_vs_rest
from featstore.heads.solvers.losses import predict_codes
from featstore.heads.solvers.passes import few_threads
from featstore.heads.solvers.rows import Labels, TrainingRows, prepare

_FOLD_TOLERANCE: Final = 10_000
"""Tolerance of the cross-validation fits as a multiple of the tolerance of the final fit."""


class OneVsRestHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """L2-regularised logistic regression for each label against all others, on standardised features.

    The objective of each label is that of scikit-learn's ``OneVsRestClassifier(LogisticRegression(C=C))``. The
    targets are label sets, given as an indicator matrix (n, k), or classes (n,), of which the one with the largest
    decision value is predicted. For label sets, each label has a threshold.

    Parameters
    ----------
    C : float or "auto"
        Inverse regularisation strength of all labels. "auto" chooses among ``Cs`` by the log loss on held-out folds,
        averaged over the labels. A fixed ``C`` is cross-validated too if thresholds are chosen.
    Cs : sequence of float
        Values of ``C`` that "auto" tries.
    cv : int or float
        Number of folds, stratified by the rarest label of each row, or the fraction of rows to hold out once.
    thresholds : "f1" or float
        "f1" chooses the threshold of each label such that F1 on the held-out folds is greatest; a number between 0 and
        1 is the threshold of every label.
    standardize : bool
        Scale every column to unit standard deviation. All folds use the scaler of all training rows.
    tol : float
        Relative gap to the optimum at which the final fit stops. Cross-validation fits stop at 10,000 times this gap.
    memory_limit : int
        Largest size of a float32 copy of the training rows in bytes. Without a copy, each pass reads the rows again.
        The solver's vectors and the solutions of cross-validation (4 bytes for each value of C, fold, label and
        feature) together have as many bytes again; if the solutions take more than three quarters of these bytes, the
        vectors have another quarter. The label sets, a byte for each row and label, are copied about four times, and
        their held-out decision values take 4 bytes each.
    random_state : int, RandomState or None
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Column numbers of the labels, or the sorted classes.
    thresholds_ : ndarray of shape (k,)
        Probability from which on a label is predicted; only for label sets.
    feature_identity_ : dict or None
        Identity of the training features (see ``featstore.FeatureArray``); prediction refuses any other identity.
    C_ : float
        The given or chosen ``C``.
    cv_results_ : dict
        Scores of each ``C``, as in scikit-learn's ``GridSearchCV``; accuracy is the share of right decisions.
    coef_ : ndarray of shape (c, d)
        Weights for raw features; c is 1 for two classes and k otherwise.
    intercept_ : ndarray of shape (c,)
        Intercepts for raw features.
    n_iter_ : int
        Passes over the rows in the final fit.
    effort_ : Effort
        Passes and floating-point operations of all fits together.
    model_ : LabelSetsModel or LinearModel
        The fitted model in numpy alone.

    Examples
    --------
    >>> import numpy as np
    >>> from featstore.heads import OneVsRestHead
    >>> X = np.random.default_rng(0).standard_normal((60, 3))
    >>> head = OneVsRestHead(C=1.0).fit(X, (X > 0).astype(int))
    >>> head.predict([[1.0, -1.0, 1.0]])
    array([[1, 0, 1]])
    """

    def __init__(
        self,
        C: float | str = "auto",
        *,
        Cs: Sequence[float] = defaults.HEAD_CS,
        cv: int | float = defaults.FOLDS,
        thresholds: float | str = "f1",
        standardize: bool = True,
        tol: float = 1e-10,
        memory_limit: int = defaults.HEAD_MEMORY,
        random_state: Any = defaults.SEED,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.thresholds = thresholds
        self.standardize = standardize
        self.tol = tol
        self.memory_limit = memory_limit
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any, *, groups: ArrayLike | None = None, scored: ArrayLike | None = None) -> Self:
        """Fit on ``X`` (n, d), an array, sparse matrix or block source, and label sets (n, k) or classes (n,).

        ``groups`` (n,): rows of the same group share a fold. ``scored`` (n,): whether a held-out row counts in the
        choice of C and thresholds (default: all rows). Raises DataError (a ValueError) for a label that fewer than two
        rows have or fewer than two rows lack, for NaN or infinity, or for different numbers of rows.
        """
        Cs = candidates(self.C, self.Cs)
        fixed = fixed_threshold(self.thresholds)
        X, sets = self._targets(X, y)
        folds = np.full(len(sets), -1, np.intp)
        if len(Cs) > 1 or (self._of_sets and fixed is None):
            strata = one_vs_rest.rarest_label(sets)
            folds = assign_folds(strata, groups, self.cv, seed_of(self.random_state))
            folds = one_vs_rest.keep_trained(sets, folds, groups)
        labels = Labels(sets, folds, None, None, scored_rows(scored, folds))  # type: ignore[arg-type]
        with few_threads(*X.shape):
            rows, scaler = prepare(X, labels, standardize=self.standardize, memory=self.memory_limit)
            start = self._cross_validate(rows, Cs, fixed)
            solved, spent = one_vs_rest.solve_all(rows, self.C_, start, tol=self.tol, memory=self.memory_limit)
        late = sum(not one.converged for one in solved)
        if late:
            warnings.warn(f"C={self.C_:g}: {late} labels did not converge", ConvergenceWarning, stacklevel=2)
        self.n_iter_ = max(one.evaluations for one in solved)
        self.effort_ += spent
        weights = np.hstack([rows.to_features(one.weights) for one in solved]) / scaler.scale[:, None]
        self.coef_ = np.ascontiguousarray(weights.T)
        self.intercept_ = np.concatenate([one.intercept for one in solved]) - scaler.mean @ weights
        self.model_: LabelSetsModel | models.LinearModel = (
            LabelSetsModel(self.coef_, self.intercept_, self.thresholds_)
            if self._of_sets
            else models.LinearModel(self.coef_, self.intercept_)
        )
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return label sets (n, k) as 1 and 0, or classes (n,)."""
        decisions = self._decide(X)
        if self._of_sets:
            return (sigmoid(decisions) >= self.thresholds_).astype(np.int64)
        return np.asarray(self.classes_[predict_codes(decisions)])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability (n, k) of each label or class. Probabilities of classes sum to 1; those of labels need
        not.
        """
        probabilities = sigmoid(self._decide(X))
        if self._of_sets:
            return probabilities
        if probabilities.shape[1] == 1:
            return np.hstack([1 - probabilities, probabilities])
        return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return decision values, (n,) for two classes and otherwise (n, k)."""
        decisions = self._decide(X)
        return decisions[:, 0] if decisions.shape[1] == 1 and not self._of_sets else decisions

    def _decide(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        return models.decide(self.model_, check_features(self, X))

    def _targets(self, X: Any, y: Any) -> tuple[Features, NDArray[np.uint8]]:
        """Return the features and a matrix of 1 and 0: (n, k) for labels, or (n, 1) for two classes.

        Sets ``classes_``.
        """
        self._of_sets = is_indicator(y)
        if self._of_sets:
            return check_label_sets(self, X, y)
        X, codes, self.classes_ = check_training(self, X, y)
        sets = codes[:, None] == np.arange(len(self.classes_))
        return X, sets[:, -1 if len(self.classes_) == 2 else 0 :].astype(np.uint8)

    def _cross_validate(self, rows: TrainingRows, Cs: list[float], fixed: float | None) -> NDArray[np.float32] | None:
        """Set C_, thresholds_ and cv_results_. Return the weights (k, r + 1) from which the final fit starts."""
        self.effort_ = grid.Effort()
        labels = rows.labels.codes.shape[1]
        if len(Cs) == 1 and (fixed is not None or not self._of_sets):
            self.C_ = Cs[0]
            if self._of_sets:
                self.thresholds_ = np.full(labels, fixed, np.float64)
            return None
        tol = _FOLD_TOLERANCE * self.tol
        found = one_vs_rest.cross_validate(rows, Cs, tol=tol, memory=self.memory_limit)
        self.effort_ += found.effort
        table: dict[str, Any] = {"param_C": np.asarray(Cs)}
        for name, values in (("accuracy", found.accuracy), ("neg_log_loss", -found.log_loss)):
            table |= {f"mean_{name}": values.mean(axis=1), f"std_{name}": values.std(axis=1)}
        self.cv_results_ = {**table, "scoring": "neg_log_loss", "folds": found.log_loss.shape[1]}
        best = int(np.argmax(table["mean_neg_log_loss"]))
        self.C_ = Cs[best]
        if self._of_sets and fixed is not None:
            self.thresholds_ = np.full(labels, fixed, np.float64)
        elif self._of_sets:
            decisions = one_vs_rest.held_out_decisions(rows, found.weights[best])
            seen = ~np.isnan(decisions[:, 0])
            self.thresholds_ = best_thresholds(decisions[seen], rows.labels.codes[seen] == 1)
        return np.asarray(found.weights[best].mean(axis=0, dtype=np.float64).astype(np.float32))
