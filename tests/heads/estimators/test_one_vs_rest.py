"""Tests of OneVsRestHead: logistic regression for label sets."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from featstore.errors import DataError
from featstore.heads import OneVsRestHead
from featstore.heads.label_sets import best_threshold, sigmoid
from featstore.heads.solvers import grid, one_vs_rest
from featstore.heads.solvers.rows import Labels, prepare
from tests.heads.estimators.test_estimators import NOT_CLAIMED
from tests.heads.made_up import Streamed


def tagged(rows=600, dimension=12, labels=5, seed=0, dtype=np.float32):
    """Return features (rows, dimension) and label sets (rows, labels); later labels are rarer."""
    random = np.random.default_rng(seed)
    features = 3 * random.standard_normal((rows, dimension)) + random.standard_normal(dimension)
    values = features @ random.standard_normal((dimension, labels)) + 5 * random.standard_normal((rows, labels))
    return features.astype(dtype), (values > np.linspace(0, 15, labels)).astype(np.int64)


def applicable_checks():
    for estimator, check in estimator_checks_generator(OneVsRestHead()):
        name = check.func.__name__ if isinstance(check, functools.partial) else check.__name__
        if name not in NOT_CLAIMED:
            yield pytest.param(estimator, check, id=name)


@pytest.mark.parametrize(("estimator", "check"), list(applicable_checks()))
def test_one_vs_rest_head_passes_the_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_vs_rest_probabilities_equal_those_of_scikit_learn(C, dtype):
    X, sets = tagged(dtype=dtype)
    head = OneVsRestHead(C=C, thresholds=0.5).fit(X, sets)
    plain = OneVsRestClassifier(LogisticRegression(C=C, tol=1e-10, max_iter=5000))
    expected = make_pipeline(StandardScaler(), plain).fit(X.astype(np.float64), sets)
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(X), atol=1e-4)
    assert (head.predict(X) == expected.predict(X)).mean() > 0.999


def test_one_vs_rest_head_chooses_C_and_thresholds_by_the_scored_rows():
    X, sets = tagged(300)
    # The second half has the same features, which are groups of two with the first half, and every label twice as often.
    both, groups = np.vstack([sets, sets | np.roll(sets, 1, axis=0)]), np.tile(np.arange(300), 2)
    X = np.vstack([X, X])
    every = OneVsRestHead(Cs=(0.01, 1.0)).fit(X, both, groups=groups)
    some = OneVsRestHead(Cs=(0.01, 1.0)).fit(X, both, groups=groups, scored=np.arange(600) < 300)
    assert (some.thresholds_ > every.thresholds_).mean() > 0.5
    assert (some.cv_results_["mean_accuracy"] > every.cv_results_["mean_accuracy"]).all()


def test_one_vs_rest_head_with_fixed_C_and_threshold_needs_no_row_to_hold_out():
    X, groups = tagged(40)[0], np.arange(40) % 2
    # All rows of a label are in one group.
    sets = np.stack([groups == 0, groups == 1], axis=1).astype(np.int64)
    assert OneVsRestHead(C=0.1, thresholds=0.5).fit(X, sets, groups=groups).thresholds_.tolist() == [0.5] * 2
    with pytest.raises(DataError, match="nothing can be held out"):
        OneVsRestHead(C=0.1).fit(X, sets, groups=groups)


@pytest.mark.parametrize(("labels", "groups"), [(2.0, 5), (2.3, 3), (0.0, 5), (5.0, 2), (5.3, 1)])
def test_solutions_of_cross_validation_count_against_the_memory_limit(monkeypatch, labels, groups):
    X, sets = tagged(100)
    calls = []
    monkeypatch.setattr(grid, "solve", lambda *rest, solve=grid.solve, **more: calls.append(0) or solve(*rest, **more))
    # 26 vectors of 13 float32 for each fold and value of C of a label.
    memory = int(labels * 26 * 13 * 4 * 5 * 2)
    rows, _ = prepare(X, Labels(sets, np.arange(100) % 5, None), standardize=True)
    one_vs_rest.cross_validate(rows, [0.1, 1.0], tol=1e-3, memory=memory)
    assert len(calls) == groups


def test_one_vs_rest_head_learns_the_same_from_streamed_rows():
    X, sets = tagged()
    whole = OneVsRestHead(C=0.1).fit(X, sets)
    streamed = OneVsRestHead(C=0.1, memory_limit=50_000).fit(Streamed(X), sets)
    np.testing.assert_allclose(streamed.predict_proba(Streamed(X)), whole.predict_proba(X), atol=1e-3)
    np.testing.assert_allclose(streamed.thresholds_, whole.thresholds_, atol=0.02)


def test_solving_labels_in_groups_gives_the_same_weights_as_all_at_once():
    X, sets = tagged(dtype=np.float64)
    whole = OneVsRestHead(Cs=(0.01, 0.1)).fit(X, sets)
    grouped = OneVsRestHead(Cs=(0.01, 0.1), memory_limit=X.nbytes).fit(X, sets)
    assert grouped.effort_.passes > whole.effort_.passes
    np.testing.assert_allclose(grouped.coef_, whole.coef_, atol=1e-3)


def test_label_thresholds_are_chosen_on_held_out_fold_predictions():
    # Labels are random: scores of training rows separate the labels, but scores of held-out rows do not.
    random = np.random.default_rng(0)
    X, sets = random.standard_normal((120, 100)), (random.random((120, 3)) < 0.3).astype(int)
    head = OneVsRestHead(C=10.0).fit(X, sets)
    assert f1_score(sets, head.predict(X), average="macro") < 0.99
    plain = OneVsRestClassifier(LogisticRegression(C=10.0))
    held_out = cross_val_predict(plain, X, sets, method="predict_proba")
    reachable = [f1_score(sets[:, 0], held_out[:, 0] >= t) for t in np.linspace(0.001, 0.999, 500)]
    assert max(reachable) < 0.7  # On held-out rows, every threshold gives a low F1.
    assert head.thresholds_[0] < 0.2  # With random scores, F1 is highest if nearly every row gets the label.


def test_chosen_label_thresholds_raise_the_f1_of_rare_labels():
    X, sets = tagged(rows=2000, seed=1)
    tuned = OneVsRestHead(C=0.1).fit(X[:1000], sets[:1000])
    fixed = OneVsRestHead(C=0.1, thresholds=0.5).fit(X[:1000], sets[:1000])
    scores = [f1_score(sets[1000:, -1], head.predict(X[1000:])[:, -1]) for head in (tuned, fixed)]
    assert scores[0] > scores[1]


def test_function_best_threshold_returns_a_threshold_with_the_highest_f1():
    random = np.random.default_rng(0)
    positive = random.random(80) < 0.3
    decisions = np.round(random.standard_normal(80) + positive, 1)  # rounded, so that scores are tied
    chosen = f1_score(positive, sigmoid(decisions) >= best_threshold(decisions, positive))
    everywhere = [f1_score(positive, decisions >= cut) for cut in np.arange(-4, 4, 0.05)]
    assert chosen == pytest.approx(max(everywhere))
    assert best_threshold(decisions, np.zeros(80, bool)) == 0.5


def test_one_vs_rest_head_keeps_rows_of_one_group_in_one_fold():
    # Labels are random and every row appears twice: the held-out accuracy is high only if copies are in other folds.
    random = np.random.default_rng(0)
    X, sets = random.standard_normal((100, 200)), random.integers(0, 2, (100, 3))
    twice, both = np.vstack([X, X]), np.vstack([sets, sets])
    apart = OneVsRestHead(C=1.0).fit(twice, both).cv_results_["mean_accuracy"][0]
    together = OneVsRestHead(C=1.0).fit(twice, both, groups=np.tile(np.arange(100), 2)).cv_results_["mean_accuracy"][0]
    assert apart > 0.9
    assert together < 0.65


def test_label_of_only_two_rows_has_a_training_row_in_every_fold():
    X, sets = tagged(rows=100)
    sets[:, 0] = 0
    sets[:2, 0] = 1
    head = OneVsRestHead(cv=2, Cs=(0.1, 1.0)).fit(X, sets)
    assert np.isfinite(head.coef_).all()
    assert abs(head.intercept_).max() < 50


def test_same_seed_gives_bit_identical_one_vs_rest_heads():
    X, sets = tagged()
    first, second = OneVsRestHead().fit(X, sets), OneVsRestHead().fit(X, sets)
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(first.thresholds_, second.thresholds_)


def test_one_vs_rest_head_accepts_sparse_label_matrices():
    X, sets = tagged()
    plain, sparse = (OneVsRestHead(C=1.0).fit(X, y) for y in (sets, scipy.sparse.csr_array(sets)))
    np.testing.assert_array_equal(plain.coef_, sparse.coef_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sets: np.where(np.arange(5) == 1, 0, sets), "label 1 is in 0 of 600 rows"),
        (lambda sets: np.where(np.arange(5) == 1, 1, sets), "label 1 is in 600 of 600 rows"),
        (lambda sets: sets[:-1], "inconsistent numbers of samples"),
        (lambda sets: sets + 1, "must be a matrix (rows, labels) of 1 and 0"),
    ],
)
def test_invalid_label_sets_are_refused_in_one_line(change, message):
    X, sets = tagged()
    with pytest.raises((DataError, ValueError), match=re.escape(message)) as error:
        OneVsRestHead().fit(X, change(sets))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("thresholds", [0, 1, "f2", None])
def test_one_vs_rest_head_refuses_invalid_thresholds(thresholds):
    with pytest.raises(DataError, match="thresholds must be"):
        OneVsRestHead(thresholds=thresholds).fit(*tagged())
