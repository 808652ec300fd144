"""Tests that every head must pass: scikit-learn's own checks, and tests of featstore's additional guarantees."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import estimator_checks_generator

from featstore.errors import DataError, UsageError
from featstore.heads import (
    KernelSVMHead,
    KNNHead,
    LinearSVMHead,
    LogisticHead,
    MLPHead,
    OneVsRestHead,
    RidgeHead,
    train_head,
)
from featstore.heads.estimators.named import NamedHead
from tests.heads.made_up import Streamed, blobs

FOLDED = [LogisticHead(), LinearSVMHead(), KernelSVMHead(Cs=(1.0, 10.0), gammas=(1.0,)), KNNHead()]
HEADS = [*FOLDED, MLPHead(hidden=64)]
every_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
every_folded_head = pytest.mark.parametrize("head", FOLDED, ids=lambda head: type(head).__name__)


NOT_CLAIMED = {
    "check_array_api_input",
    # These two checks of scikit-learn pass cv as a list of splits, and require that weights also affect the scaler, the
    # folds and the calibration. Heads support neither.
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
}


def applicable_checks():
    """Yield scikit-learn's estimator checks for each head, except those in NOT_CLAIMED."""
    more = [LogisticHead(C=1.0), KernelSVMHead(C=1.0, gamma=0.1, exact_rows=10, landmarks=20)]
    for head in [*HEADS, *more, MLPHead(hidden=32, output="sigmoid", epochs=30)]:
        for estimator, check in estimator_checks_generator(head):
            name = check.func.__name__ if isinstance(check, functools.partial) else check.__name__
            if name not in NOT_CLAIMED:
                yield pytest.param(estimator, check, id=f"{type(head).__name__}-{name}")


@pytest.mark.parametrize(("estimator", "check"), list(applicable_checks()))
def test_heads_pass_the_estimator_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "head",
    [
        *FOLDED,
        KernelSVMHead(Cs=(1.0, 10.0), gamma=0.1, exact_rows=10, landmarks=20),
        NamedHead("sklearn.svm:LinearSVC"),
    ],
    ids=lambda head: type(head).__name__,
)
def test_heads_cross_validate_and_calibrate_with_the_scored_rows_only(head):
    X, _ = blobs(120, 6, 2, apart=2.0)
    codes = np.arange(120) % 2
    # The second half has the same features, which are groups of two with the first half, and wrong labels.
    X, codes, groups = np.vstack([X, X]), np.append(codes, np.arange(120) // 2 % 2), np.tile(np.arange(120), 2)
    best = [
        head.fit(X, codes, groups=groups, scored=scored).cv_results_["mean_accuracy"].max()
        for scored in (None, np.arange(240) < 120)
    ]
    assert best[0] < 0.85
    assert best[1] > best[0] + 0.05
    with pytest.raises(DataError, match="a fold has no scored row"):
        head.fit(X, codes, groups=groups, scored=np.arange(240) == 0)


def test_temperature_is_fitted_to_the_scored_rows():
    X, _ = blobs(120, 6, 2, apart=2.0)
    codes, groups = np.append(np.arange(120) % 2, np.arange(120) // 2 % 2), np.tile(np.arange(120), 2)
    X = np.vstack([X, X])
    for head in (LogisticHead(C=1.0), LinearSVMHead(C=1.0)):
        plain, clean = (
            head.fit(X, codes, groups=groups, scored=scored).model_.scale for scored in (None, np.arange(240) < 120)
        )
        assert clean > 1.5 * plain


@every_head
@pytest.mark.parametrize("classes", [2, 3])
def test_heads_predict_well_and_their_confidence_matches_their_accuracy(head, classes):
    X, y = blobs(900, 10, classes, apart=0.9, seed=2)
    head = clone(head).fit(X[:600], y[:600])
    probabilities = head.predict_proba(X[600:])
    right = head.predict(X[600:]) == y[600:]
    assert right.mean() > 0.75
    assert abs(probabilities.max(axis=1).mean() - right.mean()) < 0.06
    np.testing.assert_array_equal(head.classes_[probabilities.argmax(axis=1)], head.predict(X[600:]))


@every_head
def test_fitting_in_blocks_equals_fitting_the_whole_array(head):
    X, y = blobs(400, 8, 3, seed=3)
    whole = clone(head).fit(X, y)
    streamed = clone(head).fit(Streamed(X), y)
    np.testing.assert_allclose(streamed.predict_proba(Streamed(X)), whole.predict_proba(X), atol=2e-3)


@every_head
def test_same_seed_gives_bit_identical_heads(head):
    X, y = blobs(300, 8, 3, seed=4)
    first, second = clone(head).fit(X, y), clone(head).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


@every_folded_head
def test_heads_keep_rows_of_one_group_in_the_same_fold(head):
    # Labels are random and every row appears twice: accuracy is high only if copies are in different folds.
    random = np.random.default_rng(0)
    X = np.repeat(random.standard_normal((150, 6)), 2, axis=0).astype(np.float32)
    y = np.repeat(random.integers(0, 2, 150), 2)
    groups = np.repeat(np.arange(150), 2)
    honest = clone(head).fit(X, y, groups=groups).cv_results_["mean_accuracy"]
    assert honest.max() < 0.65


def test_ungrouped_copies_in_other_folds_inflate_the_accuracy():
    random = np.random.default_rng(0)
    X = np.repeat(random.standard_normal((150, 6)), 2, axis=0).astype(np.float32)
    y = np.repeat(random.integers(0, 2, 150), 2)
    leaky = KNNHead().fit(X, y).cv_results_["mean_accuracy"]
    assert leaky.max() > 0.75


@every_folded_head
def test_head_with_cv_fraction_holds_out_one_part_and_is_refitted_on_all_rows(head):
    X, y = blobs(300, 8, 2, seed=5)
    fitted = clone(head).set_params(cv=0.1).fit(X, y)
    assert fitted.cv_results_["folds"] == 1
    assert fitted.score(X, y) > 0.8


@every_head
def test_heads_work_in_a_pipeline_and_with_text_labels(head):
    X, y = blobs(200, 8, 3, seed=6)
    pipeline = make_pipeline(Normalizer(), clone(head)).fit(X, y)
    assert set(pipeline.predict(X)) <= set(y)


@every_head
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X, y: (X, np.full_like(y, y[0])), "only one class"),
        (lambda X, y: (np.where(np.arange(X.size).reshape(X.shape) == 20, np.nan, X), y), "NaN or infinity"),
        (lambda X, y: (Streamed(X), y[:-1]), "one label a row"),
        (lambda X, y: (X, np.full(len(y), None)), "none of the 60 rows has a label"),
        (
            lambda X, y: (X, np.where(np.arange(len(y)) < 3, None, y)),
            r"3 of 60 labels are missing; leave these rows out",
        ),
        (
            lambda X, y: (X, pd.Series(np.where(np.arange(len(y)) < 2, None, y), dtype="string")),
            "2 of 60 labels are missing",
        ),
        (lambda X, y: (np.zeros_like(X), y), None),
    ],
    ids=["one class", "nan", "lengths", "no label", "some labels", "NA of pandas", "constant"],
)
def test_heads_reject_unusable_data_with_a_one_line_error(head, spoil, message):
    X, y = spoil(*blobs(60, 8, 3))
    if message is None and not isinstance(head, KernelSVMHead):
        # With constant features fitting succeeds, and the head predicts the class frequencies.
        assert np.isfinite(clone(head).fit(X, y).predict_proba(X)).all()
        return
    with pytest.raises(DataError, match=message or "all features are constant") as caught:
        clone(head).fit(X, y)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("head", [LogisticHead, LinearSVMHead, KernelSVMHead])
@pytest.mark.parametrize("C", [0.0, -1.0, np.nan, np.inf, "best"])
def test_heads_reject_invalid_values_of_C(head, C):
    X, y = blobs(60, 4, 2)
    with pytest.raises(DataError, match="C must be"):
        head(C=C).fit(X, y)


def test_coefficients_of_a_linear_head_apply_to_unscaled_features():
    X, y = blobs(300, 8, 3, dtype=np.float64)
    head = LogisticHead(C=1.0).fit(X, y)
    np.testing.assert_allclose(X @ head.coef_.T + head.intercept_, head.decision_function(X))


def test_cv_results_name_the_chosen_C():
    X, y = blobs(400, 30, 2, apart=0.3)
    head = LogisticHead(Cs=(1e-3, 1e-1, 10.0), cv=4).fit(X, y)
    results = head.cv_results_
    best = results["mean_accuracy"].max()
    assert head.C_ in results["param_C"][results["mean_accuracy"] == best]
    splits = np.stack([results[f"split{fold}_accuracy"] for fold in range(4)])
    np.testing.assert_allclose(splits.mean(axis=0), results["mean_accuracy"])
    np.testing.assert_allclose(splits.std(axis=0), results["std_accuracy"])


@pytest.mark.parametrize(
    "weight",
    ["unbalanced", {"nothing": 1.0}, *({"class 0": value} for value in (-1.0, 0.0, np.inf, np.nan, "2", None))],
)
@pytest.mark.parametrize("head", [LogisticHead, LinearSVMHead, KernelSVMHead, MLPHead])
def test_heads_reject_invalid_class_weights(head, weight):
    X, y = blobs(60, 4, 2)
    with pytest.raises(DataError, match=r"class_weight|weight of class"):
        head(class_weight=weight).fit(X, y)


@pytest.mark.parametrize(
    "head", [LogisticHead(), LinearSVMHead(), KernelSVMHead(Cs=(1.0, 10.0), gammas=(1.0,)), MLPHead(hidden=64)]
)
def test_class_of_zero_weight_is_never_predicted(head):
    X, y = blobs(240, 6, 3, apart=1.5, seed=7)
    weighted = clone(head).set_params(class_weight={"class 2": 0.0}).fit(X, y)
    assert set(weighted.predict(X)) == {"class 0", "class 1"}
    rest = y != "class 2"
    assert weighted.score(X[rest], y[rest]) > 0.9


def test_streamed_linear_svm_reaches_the_in_memory_optimum():
    X, y = blobs(200, 120, 3, apart=0.4, seed=9, dtype=np.float64)
    exact = LinearSVMHead(C=0.1).fit(X, y)
    assert not hasattr(exact, "effort_")
    streamed = LinearSVMHead(C=0.1, memory_limit=1000, tol=1e-10).fit(Streamed(X), y)
    assert streamed.effort_.passes > 10
    assert streamed.objective_ == pytest.approx(exact.objective_, rel=1e-8)
    np.testing.assert_allclose(streamed.predict_proba(X), exact.predict_proba(X), atol=1e-2)


def test_balanced_class_weights_raise_the_recall_of_the_rare_class():
    X, y = blobs(600, 6, 2, apart=0.5, seed=8)
    keep = np.flatnonzero((y == "class 0") | (np.arange(600) % 20 == 1))
    plain = LogisticHead(C=1.0).fit(X[keep], y[keep])
    balanced = LogisticHead(C=1.0, class_weight="balanced").fit(X[keep], y[keep])
    rare = y == "class 1"
    assert (balanced.predict(X[rare]) == "class 1").mean() > (plain.predict(X[rare]) == "class 1").mean()


def test_knn_refuses_more_vectors_than_memory_allows():
    X, y = blobs(100, 8, 2)
    with pytest.raises(DataError, match="keep all training vectors"):
        KNNHead(memory_limit=1000).fit(X, y)


def test_calibration_lowers_the_log_loss_of_overconfident_logistic_regression():
    X, y = blobs(800, 120, 2, apart=0.15, seed=1)
    plain = LogisticHead(C=100.0, calibrate=False).fit(X[:300], y[:300])
    calibrated = LogisticHead(C=100.0).fit(X[:300], y[:300])
    test = y[300:] == plain.classes_[1]

    def log_loss(head):
        own = np.where(test, *head.predict_proba(X[300:]).T[::-1])
        return -np.log(np.maximum(own, 1e-12)).mean()

    assert log_loss(calibrated) < 0.8 * log_loss(plain)
    assert (calibrated.predict(X) == plain.predict(X)).mean() > 0.99


regularised = pytest.mark.parametrize(
    "head",
    [
        LogisticHead(C=1.0, calibrate=False, standardize=False, tol=1e-9),
        LinearSVMHead(C=0.1, standardize=False, tol=1e-9),
        KernelSVMHead(C=1.0, gamma=0.05, standardize=False),
    ],
    ids=lambda head: type(head).__name__,
)


@regularised
@pytest.mark.parametrize("classes", [2, 3])
def test_sample_weight_2_equals_two_copies_of_the_row(head, classes):
    X, y = blobs(120, 6, classes, seed=8)
    X = X - X.mean(axis=0)
    weights = np.random.default_rng(0).integers(1, 3, len(y))
    weighted = clone(head).fit(X, y, sample_weight=weights)
    repeated = clone(head).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X), atol=2e-2)
    unweighted = clone(head).fit(X, y)
    gap = np.abs(weighted.decision_function(X) - unweighted.decision_function(X)).max()
    assert np.abs(weighted.decision_function(X) - repeated.decision_function(X)).max() < gap / 3


def test_weighted_fit_equals_scikit_learns_logistic_regression():
    X, y = blobs(200, 5, 3, seed=9)
    weights = np.random.default_rng(1).uniform(0, 3, len(y))
    own = LogisticHead(C=0.5, calibrate=False, standardize=False, tol=1e-10).fit(X, y, weights)
    theirs = LogisticRegression(C=0.5, tol=1e-10, solver="newton-cg", max_iter=5000).fit(X.astype(float), y, weights)
    np.testing.assert_allclose(own.predict_proba(X), theirs.predict_proba(X), atol=1e-4)


def test_streamed_and_in_memory_training_use_sample_weights_in_the_same_way():
    X, y = blobs(300, 5, 3, seed=10)
    weights = np.random.default_rng(2).uniform(0, 3, len(y))
    head = LogisticHead(C=0.5, tol=1e-9)
    whole = clone(head).fit(X, y, weights)
    streamed = clone(head).set_params(memory_limit=1).fit(Streamed(X), y, weights)
    np.testing.assert_allclose(streamed.predict_proba(X), whole.predict_proba(X), atol=2e-3)


@regularised
@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.ones(3), "one weight a row"),
        (-np.ones(40), "negative"),
        (np.full(40, np.nan), "not finite"),
        (np.ones((40, 1)), "1D"),
        ("first", "those of one class are zero"),
    ],
)
def test_heads_reject_invalid_sample_weights(head, weights, words):
    X, y = blobs(40, 4, 2, seed=11)
    weights = (y == y[0]).astype(float) if isinstance(weights, str) else weights
    with pytest.raises(DataError, match=words):
        clone(head).fit(X, y, sample_weight=weights)


@every_head
@pytest.mark.parametrize("form", [scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_array])
def test_sparse_and_dense_features_give_the_same_head(head, form):
    X, y = blobs(200, 12, 3, seed=12)
    X = np.where(X > 0, X, 0)
    dense, sparse = clone(head).fit(X, y), clone(head).fit(form(X), y)
    np.testing.assert_allclose(sparse.predict_proba(form(X)), dense.predict_proba(X), atol=2e-3)
    np.testing.assert_allclose(dense.predict_proba(form(X)), dense.predict_proba(X), atol=1e-6)


def test_trained_head_accepts_sparse_features():
    X, y = blobs(100, 6, 2, seed=13)
    head = train_head(scipy.sparse.csr_array(X), y, C=1.0)
    np.testing.assert_allclose(head.predict_proba(scipy.sparse.coo_array(X)), head.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("random_state", [-1, 2**32, 1.5, "0"])
@pytest.mark.parametrize("head", [*HEADS, OneVsRestHead(), RidgeHead()], ids=lambda head: type(head).__name__)
def test_a_random_state_that_is_no_seed_is_refused_in_one_line(head, random_state):
    X, y = blobs(30, 4, 2)
    y = np.arange(30.0) if isinstance(head, RidgeHead) else y
    with pytest.raises(DataError, match="random_state must be a whole number from 0 to 4,294,967,295") as caught:
        clone(head).set_params(random_state=random_state).fit(X, y)
    assert "\n" not in str(caught.value)
