"""The prediction for a row must not depend on the other rows of the batch, on any instruction set.

The tolerance for float64 features is that of scikit-learn (check_methods_subset_invariance); for float32 features it is
the rounding error of float32.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from featstore.heads import KernelSVMHead, KNNHead, LinearSVMHead, LogisticHead, MLPHead, models
from featstore.heads.solvers.losses import predict_codes
from tests.heads.made_up import blobs

SHAPES = int(os.environ.get("FEATSTORE_SHAPES", "20"))
"""Number of random shapes per head; python -m tests.slow.instruction_sets sets it to 200."""
BOUNDS = {np.float64: 1e-7, np.float32: 1e-4}
HEADS = [
    LogisticHead(C=1.0, calibrate=False),
    LinearSVMHead(C=0.1, cv=0.3),
    KernelSVMHead(C=1.0, gamma=0.05, cv=0.3),
    KernelSVMHead(C=1.0, gamma=0.05, cv=0.3, exact_rows=10, landmarks=24),
    KNNHead(n_neighbors=5),
    MLPHead(hidden=(48, 16), epochs=3),
]
NAMES = ["logreg", "svm", "rbf", "rbf-nystroem", "knn", "mlp"]


@pytest.mark.parametrize("head", HEADS, ids=NAMES)
@settings(max_examples=SHAPES)
@given(
    rows=st.integers(20, 90),
    dimension=st.integers(1, 300),
    classes=st.integers(2, 4),
    taken=st.integers(1, 70),
    seed=st.integers(0, 2**16),
)
def test_prediction_of_a_row_is_the_same_alone_and_in_any_batch(head, rows, dimension, classes, taken, seed):
    X, y = blobs(rows, dimension, classes, seed=seed, apart=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = clone(head).fit(X, y)
    chosen = np.random.default_rng(seed).permutation(70)[:taken]
    for dtype, bound in BOUNDS.items():
        queries = blobs(70, dimension, classes, seed=seed + 1, apart=0.3)[0].astype(dtype)
        for ask in (fitted.predict_proba, getattr(fitted, "decision_function", fitted.predict_proba)):
            whole, part = ask(queries), ask(queries[chosen])
            alone = np.concatenate([ask(queries[row : row + 1]) for row in chosen[:5]])
            np.testing.assert_allclose(part, whole[chosen], rtol=0, atol=bound)
            np.testing.assert_allclose(alone, part[:5], rtol=0, atol=bound)
        np.testing.assert_array_equal(fitted.predict(queries[chosen]), fitted.predict(queries)[chosen])


@pytest.mark.parametrize("place", range(8))
def test_tied_rows_get_the_same_class_in_every_batch(place):
    random = np.random.default_rng(place)
    landmarks = random.standard_normal((40, 30)).astype(np.float32)
    coef = random.standard_normal((1, 20))
    zeros, ones = np.zeros(30), np.ones(30)
    # Every landmark appears twice with opposite weights, so the exact decision value of every row is 0, and only
    # rounding decides the class.
    tied = models.KernelModel(
        np.concatenate([landmarks[:20], landmarks[:20][::-1]]),
        np.concatenate([coef, -coef[:, ::-1]], axis=1),
        np.zeros(1),
        zeros,
        ones,
        0.02,
    )
    for dtype in BOUNDS:
        queries = random.standard_normal((64, 30)).astype(dtype)
        whole = predict_codes(models.decide(tied, queries))
        for start in range(0, 64, place + 1):
            part = queries[start : start + place + 1]
            np.testing.assert_array_equal(predict_codes(models.decide(tied, part)), whole[start:][: len(part)])


def test_nearly_equal_neighbours_give_the_same_vote_in_every_batch():
    random = np.random.default_rng(0)
    # Rows of both classes are almost equally near, so rounding in float32 decides which rows are the nearest neighbours
    # and which class gets the votes.
    X = np.repeat(random.standard_normal((12, 200)), 40, axis=0).astype(np.float32)
    X += np.float32(1e-6) * random.standard_normal(X.shape).astype(np.float32)
    y = np.arange(len(X)) % 2
    head = KNNHead(n_neighbors=3).fit(X, y)
    queries = X[::3] + np.float32(0.1) * random.standard_normal(X[::3].shape).astype(np.float32)
    whole = head.predict_proba(queries)
    assert len(np.unique(whole.round(6))) > 2
    for size in (1, 3, 7, 64):
        parts = [head.predict_proba(queries[start : start + size]) for start in range(0, len(queries), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
