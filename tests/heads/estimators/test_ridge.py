"""Tests of RidgeHead: ridge regression in closed form."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from featstore import splits
from featstore.errors import DataError
from featstore.heads import RidgeHead
from featstore.heads.solvers.blocks import measure
from featstore.heads.solvers.ridge import accumulate
from tests.heads.estimators.test_estimators import NOT_CLAIMED
from tests.heads.made_up import Streamed


def measured(rows=300, dimension=12, seed=0, noise=3.0, dtype=np.float32):
    """Return features (rows, dimension) and numbers (rows,) that depend on them linearly, with noise."""
    random = np.random.default_rng(seed)
    features = random.standard_normal((rows, dimension)) * np.exp(random.standard_normal(dimension)) + 5
    return features.astype(dtype), features @ random.standard_normal(dimension) + noise * random.standard_normal(rows)


def applicable_checks():
    for estimator, check in estimator_checks_generator(RidgeHead()):
        name = check.func.__name__ if isinstance(check, functools.partial) else check.__name__
        if name not in NOT_CLAIMED:
            yield pytest.param(estimator, check, id=name)


@pytest.mark.parametrize(("estimator", "check"), list(applicable_checks()))
def test_ridge_head_passes_the_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize(("rows", "dimension"), [(300, 12), (40, 100)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ridge_predictions_equal_those_of_scikit_learn(alpha, rows, dimension, dtype):
    X, y = measured(rows, dimension, dtype=dtype)
    head = RidgeHead(alpha=alpha).fit(X, y)
    exact = X.astype(np.float64)
    expected = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(exact, y)
    np.testing.assert_allclose(head.predict(X), expected.predict(exact), atol=1e-4)


def test_unstandardised_ridge_coefficients_equal_those_of_scikit_learn():
    X, y = measured(dtype=np.float64)
    head, expected = RidgeHead(alpha=3.0, standardize=False).fit(X, y), Ridge(alpha=3.0).fit(X, y)
    np.testing.assert_allclose(head.coef_, expected.coef_, atol=1e-8)
    assert head.intercept_ == pytest.approx(expected.intercept_)


def test_chosen_ridge_alpha_has_the_smallest_squared_error_on_held_out_folds():
    X, y = measured(60, 50, noise=10.0, dtype=np.float64)
    head = RidgeHead().fit(X, y)
    folds = splits.plain_folds(60, cv=5, seed=0)
    scaled = StandardScaler().fit_transform(X)
    errors = []
    for alpha in head.cv_results_["param_alpha"]:
        parts = []
        for fold in range(5):
            plain = Ridge(alpha=alpha).fit(scaled[folds != fold], y[folds != fold])
            parts.append(np.mean((plain.predict(scaled[folds == fold]) - y[folds == fold]) ** 2) / y.var())
        errors.append(np.mean(parts))
    np.testing.assert_allclose(1 - head.cv_results_["mean_r2"], errors, rtol=1e-6)
    assert head.alpha_ == head.cv_results_["param_alpha"][np.argmin(errors)]
    assert 1e-2 < head.alpha_ < 1e6


def test_scikit_learn_cross_val_score_accepts_the_ridge_head():
    X, y = measured()
    assert cross_val_score(RidgeHead(), X, y, cv=KFold(3)).mean() > 0.7


def test_ridge_head_predicts_the_same_if_trained_on_streamed_or_sparse_or_dense_rows():
    X, y = measured()
    whole = RidgeHead(alpha=1.0).fit(X, y).predict(X)
    np.testing.assert_allclose(RidgeHead(alpha=1.0).fit(Streamed(X), y).predict(Streamed(X)), whole, atol=1e-5)
    np.testing.assert_allclose(RidgeHead(alpha=1.0).fit(scipy.sparse.csr_array(X), y).predict(X), whole, atol=1e-5)


def test_means_and_covariances_of_folds_equal_sums_over_their_rows():
    X, y = measured(dtype=np.float64)
    folds = np.arange(len(y)) % 3
    scaler = measure(X, standardize=True)[0]
    moments = accumulate(Streamed(X), y, folds, scaler, 2.0, 5.0)
    for fold in range(3):
        z = np.column_stack([scaler.apply(X), (y - 2) / 5])[folds == fold]
        np.testing.assert_allclose(moments[fold].gram, z.T @ z, atol=1e-9)
        np.testing.assert_allclose(moments[fold].total, z.sum(axis=0), atol=1e-9)
        assert moments[fold].count == len(z)


def test_ridge_head_keeps_rows_of_one_group_in_one_fold():
    # The target is random and every row appears twice: R2 on held-out folds is high only if copies are in other folds.
    random = np.random.default_rng(0)
    X, y = random.standard_normal((60, 200)), random.standard_normal(60)
    twice, both = np.vstack([X, X]), np.r_[y, y]
    apart = RidgeHead().fit(twice, both).cv_results_["mean_r2"].max()
    together = RidgeHead().fit(twice, both, groups=np.tile(np.arange(60), 2)).cv_results_["mean_r2"].max()
    assert apart > 0.8
    assert together < 0.3


def test_fitting_ridge_twice_gives_bit_identical_coefficients():
    X, y = measured()
    np.testing.assert_array_equal(RidgeHead().fit(X, y).coef_, RidgeHead().fit(X, y).coef_)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda y: np.full_like(y, 7.5), {}, "the target is 7.5 for every row"),
        (lambda y: np.where(np.arange(300) == 3, np.nan, y), {}, "the target is NaN or infinite in 1 rows"),
        (lambda y: y.astype(str) + "x", {}, "the target must be numbers"),
        (lambda y: y[:-1], {}, "inconsistent numbers of samples"),
        (lambda y: y, {"alpha": 0.0}, "alpha must be positive"),
        (lambda y: y, {"alpha": "best"}, "alpha must be a positive number or 'auto'"),
        (lambda y: y, {"cv": 1}, "at least 2 folds"),
        (lambda y: y, {"memory_limit": 1000}, "above memory_limit"),
    ],
)
def test_ridge_head_refuses_invalid_targets_and_parameters_in_one_line(change, options, message):
    X, y = measured()
    with pytest.raises((DataError, ValueError), match=re.escape(message)) as error:
        RidgeHead(**options).fit(X, change(y))
    assert "\n" not in str(error.value)


def test_ridge_head_refuses_a_tiny_alpha_for_linearly_dependent_features():
    X, y = measured(dtype=np.float64)
    with pytest.raises(DataError, match="is too small: features depend on each other"):
        RidgeHead(alpha=1e-300).fit(np.hstack([X, X, X[:, :1] * 0]), y)
