"""Ridge regression as a scikit-learn regressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from featstore import defaults, splits
from featstore.blocks import Features
from featstore.errors import DataError
from featstore.heads import models
from featstore.heads.estimators.inputs import check_features, require_bytes, seed_of
from featstore.heads.numbers import NumbersModel
from featstore.heads.solvers.blocks import dense_blocks, is_blocks, measure
from featstore.heads.solvers.ridge import Moments, accumulate
from featstore.store.features import identity_of


class RidgeHead(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge regression (L2-regularised least squares) on standardised features, in closed form.

    The objective is that of scikit-learn's ``Ridge``: ``||y - X w - b||^2 + alpha ||w||^2``. The rows are read twice,
    block by block. Memory holds a float64 Gram matrix (d + 1, d + 1) for each fold.

    Parameters
    ----------
    alpha : float or "auto"
        Strength of the regularisation. "auto" chooses among ``alphas`` by the squared error on held-out folds.
    alphas : sequence of float
        Values of ``alpha`` that "auto" tries.
    cv : int or float
        Number of folds, or the fraction of rows to hold out once. The final fit uses all rows in both cases.
    standardize : bool
        Scale every column to unit standard deviation. All folds use the scaler of all training rows.
    memory_limit : int
        Largest size of the Gram matrices in bytes.
    random_state : int, RandomState or None
        Seed of the folds.

    Attributes
    ----------
    feature_identity_ : dict or None
        Identity of the training features (see ``featstore.FeatureArray``); prediction refuses any other identity.
    alpha_ : float
        The given or chosen ``alpha``.
    cv_results_ : dict
        Scores of each ``alpha``, as in scikit-learn's ``GridSearchCV``. Present if cross-validation ran.
    coef_ : ndarray of shape (d,)
        Weights for raw features.
    intercept_ : float
        Intercept for raw features.
    model_ : NumbersModel
        The fitted model in numpy alone.

    Examples
    --------
    >>> import numpy as np
    >>> from featstore.heads import RidgeHead
    >>> X = np.random.default_rng(0).standard_normal((50, 3))
    >>> head = RidgeHead(alpha=1e-6).fit(X, X @ [1.0, 2.0, 3.0] + 4.0)
    >>> head.predict([[1.0, 1.0, 1.0]]).round(3)
    array([10.])
    """

    def __init__(
        self,
        alpha: float | str = "auto",
        *,
        alphas: Sequence[float] = defaults.RIDGE_ALPHAS,
        cv: int | float = defaults.FOLDS,
        standardize: bool = True,
        memory_limit: int = defaults.HEAD_MEMORY,
        random_state: Any = defaults.SEED,
    ) -> None:
        self.alpha = alpha
        self.alphas = alphas
        self.cv = cv
        self.standardize = standardize
        self.memory_limit = memory_limit
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, *, groups: ArrayLike | None = None) -> Self:
        """Fit on ``X`` (n, d), an array, sparse matrix or block source, and numbers ``y`` (n,).

        ``groups`` (n,): rows of the same group share a fold. Raises DataError (a ValueError) for fewer than two rows, a
        constant target, NaN or infinity, different numbers of rows, or Gram matrices larger than ``memory_limit``.
        """
        alphas = self._candidates()
        X, targets = self._targets(X, y)
        folds = np.zeros(len(targets), np.intp)
        if len(alphas) > 1:
            folds = splits.plain_folds(len(targets), groups=groups, cv=self.cv, seed=seed_of(self.random_state))
        self._require_memory(len(np.unique(folds)))
        scaler = measure(X, standardize=self.standardize)[0]
        mean, scale = float(targets.mean()), float(targets.std())
        if not scale > 1e-12 * max(abs(mean), 1e-300):
            raise DataError(f"the target is {targets[0]:g} for every row; there is nothing to learn")
        moments = accumulate(X, targets, folds, scaler, mean, scale)
        whole = sum(list(moments.values())[1:], start=next(iter(moments.values())))
        self.alpha_ = alphas[0] if len(alphas) == 1 else self._choose(moments, whole, alphas)
        weights, intercept = whole.solve([self.alpha_])[0]
        raw = scale * weights / scaler.scale
        self.coef_ = raw
        self.intercept_ = float(scale * intercept + mean - scaler.mean @ raw)
        self.model_ = NumbersModel(raw[None].copy(), np.array([self.intercept_]))
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the predicted numbers (n,)."""
        check_is_fitted(self)
        return np.asarray(models.decide(self.model_, check_features(self, X))[:, 0], np.float64)

    def _candidates(self) -> list[float]:
        """Return the values of alpha to try, largest first, so that ties go to the simpler model.

        Raises DataError for an invalid value.
        """
        if isinstance(self.alpha, str) and self.alpha != "auto":
            raise DataError(f"alpha must be a positive number or 'auto', not {self.alpha!r}")
        values = sorted(map(float, self.alphas), reverse=True) if isinstance(self.alpha, str) else [float(self.alpha)]
        if not values or not all(0 < value < np.inf for value in values):
            raise DataError("alpha must be positive and finite")
        return values

    def _targets(self, X: Any, y: Any) -> tuple[Features, NDArray[np.float64]]:
        """Return the features and the targets (n,) after checking them; set ``n_features_in_`` and
        ``feature_identity_``.
        """
        self.feature_identity_ = identity_of(X)
        require_bytes(self.memory_limit)
        if is_blocks(X):
            self.n_features_in_ = int(X.shape[1])
        else:
            if y is None:
                raise DataError("RidgeHead requires y to be passed, but the target y is None")
            X = dense_blocks(validate_data(self, X, dtype="numeric", accept_sparse="csr", ensure_all_finite=False))
        y = column_or_1d(y, warn=True)
        check_consistent_length(np.empty(X.shape[0]), y)
        try:
            targets = np.asarray(y, np.float64)
        except (TypeError, ValueError):
            raise DataError("the target must be numbers") from None
        if not np.isfinite(targets).all():
            raise DataError(
                f"the target is NaN or infinite in {int((~np.isfinite(targets)).sum()):,} rows; leave them out"
            )
        if len(targets) < 2:
            raise DataError(f"a regression needs at least two rows, not {len(targets)} (1 sample)")
        return X, targets

    def _require_memory(self, folds: int) -> None:
        need = folds * (self.n_features_in_ + 1) ** 2 * 8
        if need > self.memory_limit:
            raise DataError(
                f"the Gram matrices of {folds} folds need {need / 2**30:.1f} GiB, above memory_limit "
                f"({self.memory_limit / 2**30:.1f} GiB): give alpha, fewer folds, or a higher limit"
            )

    def _choose(self, moments: dict[int, Moments], whole: Moments, alphas: list[float]) -> float:
        """Set ``cv_results_``; return the alpha with the smallest mean squared error on held-out folds."""
        held_out = {fold: one for fold, one in moments.items() if fold >= 0}
        errors = np.array(
            [
                [one.squared_error(*solution) for solution in whole.without(one).solve(alphas)]
                for one in held_out.values()
            ]
        ).T
        # R2 is relative to the variance of all training rows: the target was scaled to variance 1.
        scores = 1 - errors
        self.cv_results_ = {
            "param_alpha": np.asarray(alphas),
            "mean_r2": scores.mean(axis=1),
            "std_r2": scores.std(axis=1),
            "scoring": "r2",
            "folds": len(held_out),
        }
        return alphas[int(np.argmax(scores.mean(axis=1)))]
