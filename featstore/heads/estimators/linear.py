"""The linear heads as scikit-learn classifiers: logistic regression and the linear SVM."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from featstore import defaults
from featstore.blocks import Features
from featstore.heads import calibration, models
from featstore.heads.estimators.inputs import ClassWeight, PerRow, candidates, check_features, training_set
from featstore.heads.solvers import dual, grid
from featstore.heads.solvers.blocks import Scaler, measure, take_rows
from featstore.heads.solvers.losses import LOGISTIC, SQUARED_HINGE, Loss, predict_codes
from featstore.heads.solvers.passes import Problem, few_threads
from featstore.heads.solvers.rows import Labels, TrainingRows, prepare
from featstore.heads.solvers.selection import choose

_FOLD_TOLERANCE: Final = 100
"""Tolerance of cross-validation fits as a multiple of the final fit's; large, because scores of folds are noisy."""
_DUAL_ROWS: Final = 2048
_DUAL_RATIO: Final = 2
"""Limits of the exact SVM solver: largest number of rows, and of rows per dimension. Within these limits the exact
solver is faster than L-BFGS, which needs hundreds of passes over the rows if the regularisation is weak."""


class ModelHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose fitted state is a numpy model (``model_``) and its classes (``classes_``)."""

    model_: models.Model
    classes_: NDArray[Any]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities (n, k), columns in the order of ``classes_``."""
        decisions = self._decide(X)
        return self.model_.probabilities(decisions)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the predicted class (n,) of each row."""
        decisions = self._decide(X)
        return np.asarray(self.classes_[predict_codes(decisions)])

    def _decide(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        return models.decide(self.model_, check_features(self, X))


class DecisionHead(ModelHead):
    """Base class of heads that also have ``decision_function``."""

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return decision values, (n,) for two classes and (n, k) for more, before any calibration."""
        decisions = self._decide(X)
        return decisions[:, 0] if decisions.shape[1] == 1 else decisions


class _LinearHead(DecisionHead):
    _loss: ClassVar[Loss]
    calibrate: bool = True
    """Whether to fit temperature scaling on held-out decision values; a constructor parameter of LogisticHead only."""

    C: float | str
    Cs: Sequence[float]
    cv: int | float
    scoring: str
    standardize: bool
    class_weight: ClassWeight
    tol: float
    memory_limit: int
    random_state: Any

    def fit(
        self, X: Any, y: Any, sample_weight: PerRow = None, *, groups: PerRow = None, scored: PerRow = None
    ) -> Self:
        """Fit on ``X`` (n, d), an array, sparse matrix or block source, and labels ``y`` (n,).

        ``groups`` (n,): rows of the same group share a fold. ``sample_weight`` (n,): factor of each row's loss, as in
        LogisticRegression. The weights do not affect the scaler or the cross-validation scores, except that rows of
        weight 0 are not scored. ``scored`` (n,): whether a held-out row counts in scores and calibration.
        Raises DataError (a ValueError) for one class, NaN or infinity, different numbers of rows, or invalid weights.
        """
        Cs = candidates(self.C, self.Cs)
        folded = len(Cs) > 1 or self.calibrate
        X, labels = training_set(self, X, y, groups, sample_weight, folded=folded, scored=scored)
        with few_threads(*X.shape):
            if self._loss is SQUARED_HINGE and self._is_small(X):
                self._fit_dual(X, labels, Cs)
            else:
                self._fit_in_passes(X, labels, Cs, folded)
        return self

    def _fit_in_passes(self, X: Features, labels: Labels, Cs: list[float], folded: bool) -> None:
        rows, scaler = prepare(X, labels, standardize=self.standardize, memory=self.memory_limit)
        scale = 1.0
        start: grid.Start | None = None
        self.C_ = Cs[0]
        self.effort_ = grid.Effort()
        if folded:
            start, scale = self._cross_validate(rows, Cs)
        final = grid.solve(rows, self._loss, [Problem(self.C_, None)], tol=self.tol, start=start)[0]
        self._warn_unless(final.converged, final.evaluations, "passes")
        self.n_iter_ = final.evaluations
        self.effort_ += grid.effort(rows, [final])
        self._finish(rows.to_features(final.weights), final.intercept, scaler, final.objective, scale)

    def _finish(
        self,
        weights: NDArray[np.float64],
        intercept: NDArray[np.float64],
        scaler: Scaler,
        objective: float,
        scale: float,
    ) -> None:
        """Set the fitted state from weights (d, c) and intercept (c,) for standardised features."""
        raw = weights / scaler.scale[:, None]
        self.objective_ = objective
        self.coef_ = np.ascontiguousarray(raw.T)
        self.intercept_ = intercept - scaler.mean @ raw
        self.model_ = models.LinearModel(self.coef_, self.intercept_, scale)

    def _warn_unless(self, converged: bool, count: int, what: str) -> None:
        if not converged:
            warnings.warn(f"C={self.C_:g} did not converge in {count} {what}", ConvergenceWarning, stacklevel=4)

    def _is_small(self, X: Features) -> bool:
        """Return whether the rows are few enough for the exact solver, and a float64 copy of them fits into memory."""
        rows, dimension = X.shape
        few = rows <= min(_DUAL_ROWS, _DUAL_RATIO * dimension)
        return bool(few and rows * dimension * 8 <= self.memory_limit)

    def _fit_dual(self, X: Features, labels: Labels, Cs: list[float]) -> None:
        """Fit a support vector machine on few rows exactly, by Newton's method on their kernel matrix."""
        scaler, rows, _ = measure(X, standardize=self.standardize)
        values = scaler.apply(take_rows(X, np.arange(rows)).astype(np.float64))
        fit = dual.search(values @ values.T, labels, Cs, self.scoring)
        self.C_, self.cv_results_ = Cs[fit.choice.index], fit.choice.results
        self.n_iter_ = fit.final.steps
        self._warn_unless(fit.final.converged, fit.final.steps, "steps")
        self._finish(values.T @ fit.final.weights, fit.final.intercept, scaler, fit.final.objective, fit.scale)

    def _cross_validate(self, rows: TrainingRows, Cs: list[float]) -> tuple[grid.Start, float]:
        """Set C_ and cv_results_. Return the starting point of the final fit, and the factor of temperature scaling."""
        folds = np.unique(rows.labels.folds[rows.labels.folds >= 0])
        problems = [Problem(C, int(fold)) for C in Cs for fold in folds]
        solutions = grid.solve(rows, self._loss, problems, tol=_FOLD_TOLERANCE * self.tol)
        self.effort_ += grid.effort(rows, solutions)
        scores = grid.score(rows, solutions)
        likelihood = self._loss is LOGISTIC
        choice = choose({"C": Cs}, scores, len(folds), self.scoring, ties_by_log_loss=likelihood)
        self.C_ = Cs[choice.index]
        self.cv_results_ = choice.results
        best = solutions[choice.index * len(folds) : (choice.index + 1) * len(folds)]
        start = grid.start_from(best, len(rows.labels.folds) / np.count_nonzero(rows.labels.folds != folds[0]))
        if not self.calibrate:
            return start, 1.0
        decisions, numbers = grid.held_out_decisions(rows, best)
        return start, calibration.fit_scale(decisions, rows.labels.codes[numbers], rows.labels.classes)


class LogisticHead(_LinearHead):
    """L2-regularised logistic regression, binary or multinomial, on standardised features.

    The objective is that of scikit-learn's ``LogisticRegression``: ``0.5 ||w||^2 + C * sum of the row losses``.

    Parameters
    ----------
    C : float or "auto"
        Inverse regularisation strength. "auto" chooses among ``Cs`` by cross-validation; if scores are
        equal, the ``C`` with the smallest log loss is chosen.
    Cs : sequence of float
        Values of ``C`` that "auto" tries.
    cv : int or float
        Number of stratified folds, or the fraction of rows to hold out once (DINOv2's protocol). The final fit uses all
        rows in both cases.
    scoring : "accuracy", "balanced_accuracy" or "neg_log_loss"
        Score that cross-validation maximises.
    standardize : bool
        Scale every column to unit standard deviation. All folds use the scaler of all training rows.
    class_weight : None, "balanced" or mapping
        Weight of each class, as in scikit-learn.
    calibrate : bool
        Fit temperature scaling on held-out decision values. A fixed ``C`` is then cross-validated too.
    tol : float
        Relative gap to the optimum at which the final fit stops. Cross-validation fits stop at 100 times this gap.
    memory_limit : int
        Largest size of a float32 copy of the training rows in bytes. Without a copy, each pass reads the rows again.
    random_state : int, RandomState or None
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Class labels, sorted.
    feature_identity_ : dict or None
        Identity of the training features (see ``featstore.FeatureArray``); prediction refuses any other identity.
    C_ : float
        The given or chosen ``C``.
    cv_results_ : dict
        Scores of each ``C``, as in scikit-learn's ``GridSearchCV``. Present if cross-validation ran.
    coef_ : ndarray of shape (c, d)
        Weights for raw features; c is 1 for two classes and k otherwise.
    intercept_ : ndarray of shape (c,)
        Intercepts for raw features.
    n_iter_ : int
        Passes over the rows in the final fit.
    objective_ : float
        Objective of the final fit.
    effort_ : Effort
        Passes and floating-point operations of all fits together.
    model_ : LinearModel
        The fitted model in numpy alone.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from featstore.heads import LogisticHead
    >>> X, y = load_iris(return_X_y=True)
    >>> head = LogisticHead(C=1.0).fit(X, y)
    >>> head.predict(X[:2])
    array([0, 0])
    >>> head.predict_proba(X[:2]).shape
    (2, 3)
    """

    _loss = LOGISTIC

    def __init__(
        self,
        C: float | str = "auto",
        *,
        Cs: Sequence[float] = defaults.HEAD_CS,
        cv: int | float = defaults.FOLDS,
        scoring: str = "accuracy",
        standardize: bool = True,
        class_weight: ClassWeight = None,
        calibrate: bool = True,
        tol: float = 1e-6,
        memory_limit: int = defaults.HEAD_MEMORY,
        random_state: Any = defaults.SEED,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.scoring = scoring
        self.standardize = standardize
        self.class_weight = class_weight
        self.calibrate = calibrate
        self.tol = tol
        self.memory_limit = memory_limit
        self.random_state = random_state


class LinearSVMHead(_LinearHead):
    """Linear support vector machine, one-vs-rest with squared hinge loss.

    The objective is that of scikit-learn's ``LinearSVC(dual=False)``, except that the intercept is not penalised.
    Up to 2,048 rows, and at most twice as many rows as dimensions, it is solved exactly by Newton's method on the
    kernel matrix; otherwise by L-BFGS in passes over the rows.

    Parameters
    ----------
    C : float or "auto"
        Inverse regularisation strength. "auto" chooses among ``Cs`` by cross-validation; ties go to the smallest ``C``.
        A fixed ``C`` is cross-validated too, because temperature scaling needs held-out decision values.
    Cs : sequence of float
        Values of ``C`` that "auto" tries.
    cv : int or float
        Number of stratified folds, or the fraction of rows to hold out once. The final fit uses all rows in both cases.
    scoring : "accuracy", "balanced_accuracy" or "neg_log_loss"
        Score that cross-validation maximises.
    standardize : bool
        Scale every column to unit standard deviation. All folds use the scaler of all training rows.
    class_weight : None, "balanced" or mapping
        Weight of each class, as in scikit-learn.
    tol : float
        Relative gap to the optimum at which the final fit stops. Cross-validation fits stop at 100 times this gap.
    memory_limit : int
        Largest size of a float32 copy of the training rows in bytes. Without a copy, each pass reads the rows again.
    random_state : int, RandomState or None
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Class labels, sorted.
    feature_identity_ : dict or None
        Identity of the training features (see ``featstore.FeatureArray``); prediction refuses any other identity.
    C_ : float
        The given or chosen ``C``.
    cv_results_ : dict
        Scores of each ``C``, as in scikit-learn's ``GridSearchCV``.
    coef_ : ndarray of shape (c, d)
        Weights for raw features; c is 1 for two classes and k otherwise.
    intercept_ : ndarray of shape (c,)
        Intercepts for raw features.
    n_iter_ : int
        Passes over the rows, or Newton steps, in the final fit.
    objective_ : float
        Objective of the final fit.
    model_ : LinearModel
        The fitted model in numpy alone.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from featstore.heads import LinearSVMHead
    >>> X, y = load_iris(return_X_y=True)
    >>> head = LinearSVMHead(C=0.01).fit(X, y)
    >>> head.predict(X[:2])
    array([0, 0])
    >>> head.decision_function(X[:2]).shape
    (2, 3)
    """

    _loss = SQUARED_HINGE

    def __init__(
        self,
        C: float | str = "auto",
        *,
        Cs: Sequence[float] = defaults.SVM_CS,
        cv: int | float = defaults.FOLDS,
        scoring: str = "accuracy",
        standardize: bool = True,
        class_weight: ClassWeight = None,
        tol: float = 1e-6,
        memory_limit: int = defaults.HEAD_MEMORY,
        random_state: Any = defaults.SEED,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.scoring = scoring
        self.standardize = standardize
        self.class_weight = class_weight
        self.tol = tol
        self.memory_limit = memory_limit
        self.random_state = random_state
