"""The linear heads as scikit-learn classifiers: logistic regression and the linear SVM."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from featstore import defaults
from featstore.blocks import Features
from featstore.heads import calibration, models
from featstore.heads.estimators.inputs import ClassWeight, candidates, check_features, training_set
from featstore.heads.solvers import dual, grid
from featstore.heads.solvers.blocks import Scaler, measure, take_rows
from featstore.heads.solvers.losses import LOGISTIC, SQUARED_HINGE, Loss, predict_codes
from featstore.heads.solvers.passes import Problem, few_threads
from featstore.heads.solvers.rows import Labels, TrainingRows, prepare
from featstore.heads.solvers.selection import choose

_FOLD_TOLERANCE: Final = 100
"""Fits that only choose C end at a gap so many times that of the final fit: scores are far noisier than that."""
_DUAL_ROWS: Final = 2048
_DUAL_RATIO: Final = 2
"""A support vector machine of so many rows at most, and of no more than so many times the dimensions, is solved in its
kernel matrix: exact, and faster there than passes over the rows, of which a loose regularisation needs hundreds."""


class ModelHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose fitted state is a numpy model (``model_``) and its classes (``classes_``)."""

    model_: models.Model
    classes_: NDArray[Any]

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities (n, k), columns in the order of ``classes_``."""
        decisions = self._decide(X)
        return self.model_.probabilities(decisions)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return classes (n,)."""
        decisions = self._decide(X)
        return np.asarray(self.classes_[predict_codes(decisions)])

    def _decide(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        return models.decide(self.model_, check_features(self, X))


class DecisionHead(ModelHead):
    """A ModelHead with decision values."""

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return decision values, (n,) for two classes and (n, k) for more, before any calibration."""
        decisions = self._decide(X)
        return decisions[:, 0] if decisions.shape[1] == 1 else decisions


class _LinearHead(DecisionHead):
    _loss: ClassVar[Loss]
    calibrate: bool = True
    """Whether decision values are scaled to probabilities by rows that a fold held out; a parameter of some heads."""

    C: float | str
    Cs: Sequence[float]
    cv: int | float
    scoring: str
    standardize: bool
    class_weight: ClassWeight
    tol: float
    memory_limit: int
    random_state: Any

    def fit(self, X: Any, y: Any, groups: ArrayLike | None = None) -> Self:
        """Fit on ``X`` (n, d), an array or block source, and ``y`` (n,); rows of equal ``groups`` (n,) share a fold.

        Raises DataError (a ValueError): one class only, NaN or infinity, numbers of rows that differ.
        """
        Cs = candidates(self.C, self.Cs)
        folded = len(Cs) > 1 or self.calibrate
        X, labels = training_set(self, X, y, groups, folded=folded)
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
        """Return whether a kernel matrix of the rows is worth while, and its float64 copy of them fits the memory."""
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
        """Choose C_, fill cv_results_; return where to start the final fit and the calibration's scale."""
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
    """L2-regularised logistic regression, binary or multinomial, scikit-learn's objective on standardised features.

    Parameters: ``C``: inverse strength, or "auto" to choose among ``Cs`` by cross-validation, of equal scores the one
    with the smallest log loss (LinearSVMHead: the smallest C); ``cv``: number of
    stratified folds, or a fraction to hold out once (DINOv2's protocol; in both cases the final fit is on all
    rows); ``scoring``: "accuracy", "balanced_accuracy" or "neg_log_loss"; ``standardize``: scale columns to unit
    deviation (the scaler of all training rows, in the folds too); ``class_weight``: None, "balanced" or a mapping;
    ``calibrate``: temperature scaling on held-out decisions (then a given ``C`` is cross-validated as well);
    ``tol``: relative gap of the final objective (the folds' fits end at 100 times that); ``memory_limit``: bytes
    above which rows are streamed; ``random_state``: seed of the folds.

    Attributes: ``classes_`` (k,), ``C_``, ``cv_results_``, ``coef_`` (c, d) and ``intercept_`` (c,) for raw features,
    c = 1 for two classes and k otherwise; ``n_iter_`` passes (or Newton steps) of the final fit, ``objective_``,
    ``model_``; ``effort_``: passes and operations of all, where there were passes.
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
    """Linear SVM, one-vs-rest with squared hinge loss: LinearSVC(dual=False) but for the intercept, not penalised here.

    Parameters and attributes are those of LogisticHead. Probabilities come from temperature scaling of decision
    values of rows that the fold's classifier did not see, so the folds are computed for a given ``C`` as well.
    Up to 2,048 rows, and twice the dimensions, are solved exactly by Newton's method (see dual), more by the shared
    passes of the grid solver.
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
