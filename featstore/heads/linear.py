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
from featstore.heads import calibration, dual, grid, models
from featstore.heads.blocks import Features, Scaler, measure, take_rows
from featstore.heads.errors import DataError
from featstore.heads.inputs import ClassWeight, assign_folds, check_features, check_training, class_weights, seed_of
from featstore.heads.losses import LOGISTIC, SQUARED_HINGE, Loss
from featstore.heads.passes import Problem
from featstore.heads.rows import Labels, TrainingRows, prepare
from featstore.heads.selection import choose

_FOLD_TOLERANCE: Final = 100
"""Fits that only choose C end at a gap so many times that of the final fit: scores are far noisier than that."""
_DUAL_RATIO: Final = 8
"""A support vector machine is solved in its kernel matrix where rows are at most so many times the dimensions."""


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
        return np.asarray(self.classes_[models.predicted_codes(decisions)])

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
        X, codes, self.classes_ = check_training(self, X, y)
        candidates = _candidates(self.C, self.Cs)
        folded = len(candidates) > 1 or self._wants_calibration()
        folds = assign_folds(codes, groups, self.cv, seed_of(self.random_state)) if folded else np.zeros_like(codes)
        labels = Labels(codes, folds, class_weights(self.class_weight, self.classes_, codes))
        if self._loss is SQUARED_HINGE and X.shape[0] <= min(defaults.KERNEL_EXACT_ROWS, _DUAL_RATIO * X.shape[1]):
            self._fit_dual(X, labels, candidates)
            return self
        rows, scaler = prepare(X, labels, standardize=self.standardize, memory=self.memory_limit)
        start, scale = None, 1.0
        self.C_ = candidates[0]
        self.effort_ = grid.Effort()
        if folded:
            start, scale = self._cross_validate(rows, candidates)
        final = grid.solve(
            rows, self._loss, [Problem(self.C_, None)], tol=self.tol, starts=None if start is None else [start]
        )[0]
        if not final.converged:
            warnings.warn(
                f"C={self.C_:g} did not converge in {final.evaluations} passes", ConvergenceWarning, stacklevel=2
            )
        self.n_iter_ = final.evaluations
        self.effort_ += grid.effort(rows, [final])
        self._finish(rows.to_features(final.weights), final.intercept, scaler, final.objective, scale)
        return self

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

    def _fit_dual(self, X: Features, labels: Labels, candidates: list[float]) -> None:
        """Fit a support vector machine on few rows exactly, by Newton's method on their kernel matrix."""
        scaler, rows, _ = measure(X, standardize=self.standardize)
        values = scaler.apply(take_rows(X, np.arange(rows)).astype(np.float64))
        fit = dual.search(values @ values.T, labels, candidates, self.scoring)
        self.C_, self.cv_results_ = candidates[fit.choice.index], fit.choice.results
        self.n_iter_ = 0
        self._finish(values.T @ fit.final.weights, fit.final.intercept, scaler, fit.final.objective, fit.scale)

    def _cross_validate(self, rows: TrainingRows, candidates: list[float]) -> tuple[NDArray[np.float64], float]:
        """Choose C_, fill cv_results_; return where to start the final fit and the calibration's scale."""
        folds = np.unique(rows.labels.folds[rows.labels.folds >= 0])
        problems = [Problem(C, int(fold)) for C in candidates for fold in folds]
        solutions = grid.solve(rows, self._loss, problems, tol=_FOLD_TOLERANCE * self.tol)
        self.effort_ += grid.effort(rows, solutions)
        scores = grid.score(rows, solutions)
        likelihood = self._loss is LOGISTIC
        choice = choose({"C": candidates}, scores, len(folds), self.scoring, ties_by_log_loss=likelihood)
        self.C_ = candidates[choice.index]
        self.cv_results_ = choice.results
        best = solutions[choice.index * len(folds) : (choice.index + 1) * len(folds)]
        start = np.mean([np.vstack([s.weights, s.intercept]) for s in best], axis=0)
        if not self._wants_calibration():
            return start, 1.0
        decisions, numbers = grid.held_out_decisions(rows, best)
        return start, calibration.fit_scale(decisions, rows.labels.codes[numbers], rows.labels.classes)

    def _wants_calibration(self) -> bool:
        raise NotImplementedError


def _candidates(C: float | str, Cs: Sequence[float]) -> list[float]:
    values = sorted(float(c) for c in Cs) if isinstance(C, str) else [float(C)]
    if isinstance(C, str) and C != "auto":
        raise DataError(f"C must be a positive number or 'auto', not {C!r}")
    if not values or not all(0 < value < np.inf for value in values):
        raise DataError("C must be positive and finite")
    return values


class LogisticHead(_LinearHead):
    """L2-regularised logistic regression, binary or multinomial, scikit-learn's objective on standardised features.

    Parameters: ``C``: inverse strength, or "auto" to choose among ``Cs`` by cross-validation; ``cv``: number of
    stratified folds, or a fraction to hold out once (DINOv2's protocol; in both cases the final fit is on all
    rows); ``scoring``: "accuracy", "balanced_accuracy" or "neg_log_loss"; ``standardize``: scale columns to unit
    deviation (the scaler of all training rows, in the folds too); ``class_weight``: None, "balanced" or a mapping;
    ``calibrate``: temperature scaling on held-out decisions (then a given ``C`` is cross-validated as well); ``tol``: relative gap of the final objective (the folds' fits end at 100 times that);
    ``memory_limit``: bytes above which rows are streamed; ``random_state``: seed of the folds.

    Attributes: ``classes_`` (k,), ``C_``, ``cv_results_``, ``coef_`` (c, d) and ``intercept_`` (c,) for raw features,
    c = 1 for two classes and k otherwise; ``n_iter_`` passes of the final fit, ``objective_``, ``model_``,
    ``effort_`` passes and operations of all.
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

    def _wants_calibration(self) -> bool:
        return self.calibrate


class LinearSVMHead(_LinearHead):
    """Linear SVM, one-vs-rest with squared hinge loss: LinearSVC(dual=False) but for the intercept, not penalised here.

    Parameters and attributes are those of LogisticHead. Probabilities come from temperature scaling of decision
    values of rows that the fold's classifier did not see, so the folds are computed for a given ``C`` as well.
    Few rows (see dual) are solved exactly by Newton's method, more by the shared passes of the grid solver.
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

    def _wants_calibration(self) -> bool:
        return True
