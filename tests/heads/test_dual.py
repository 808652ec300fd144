from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from featstore.heads import dual, grid
from featstore.heads.losses import SQUARED_HINGE
from featstore.heads.passes import Problem
from featstore.heads.rows import Labels, prepare
from tests.heads.made_up import blobs


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_newton_and_the_shared_passes_agree(classes, weighted):
    features, _ = blobs(240, 10, classes, dtype=np.float64)
    weights = np.array([2.0, 0.5, 1.0])[:classes] if weighted else None
    labels = Labels(np.arange(240) % classes, np.random.default_rng(0).integers(-1, 3, 240), weights)
    rows, scaler = prepare(features, labels, standardize=True)
    z = scaler.apply(features)
    problems = [Problem(C, f) for C in (0.001, 0.1, 1.0) for f in (0, 1, 2)] + [Problem(0.1, None)]
    passes = grid.solve(rows, SQUARED_HINGE, problems, tol=1e-12)
    newton = dual.solve(z @ z.T, labels, problems)
    for a, b in zip(passes, newton, strict=True):
        assert b.converged
        assert b.objective == pytest.approx(a.objective, rel=1e-9)
        np.testing.assert_allclose(b.decisions, z @ a.weights + a.intercept, atol=1e-4)
    folded = [p.fold is not None for p in problems]
    ours = grid.score(rows, [s for s, keep in zip(passes, folded, strict=True) if keep])
    theirs = dual.score(labels, [s for s, keep in zip(newton, folded, strict=True) if keep])
    np.testing.assert_allclose(ours.accuracy, theirs.accuracy)
    np.testing.assert_allclose(ours.balanced_accuracy, theirs.balanced_accuracy)
    np.testing.assert_allclose(ours.log_loss, theirs.log_loss, rtol=1e-4)


@pytest.mark.parametrize("C", [0.01, 1.0, 100.0])
def test_the_gradient_vanishes_also_for_separable_rows_and_large_C(C):
    features, _ = blobs(80, 200, 2, dtype=np.float64)
    codes = np.arange(80) % 2
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    solution = dual.solve(z @ z.T, Labels(codes, np.zeros(80, np.intp), None), [Problem(C, None)])[0]
    weights = z.T @ solution.weights
    sign = np.where(codes == 1, 1.0, -1.0)[:, None]
    slack = np.maximum(0, 1 - sign * (z @ weights + solution.intercept))
    pull = 2 * C * slack * sign
    np.testing.assert_allclose(weights, z.T @ pull, atol=1e-10)
    assert pull.sum() == pytest.approx(0, abs=1e-10)
    assert solution.objective == pytest.approx(0.5 * (weights**2).sum() + C * (slack**2).sum())


def test_the_linear_kernel_gives_linear_svc():
    features, _ = blobs(150, 5, 3, dtype=np.float64)
    codes = np.arange(150) % 3
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    solution = dual.solve(z @ z.T, Labels(codes, np.zeros(150, np.intp), None), [Problem(0.1, None)])[0]
    peer = LinearSVC(C=0.1, dual=False, intercept_scaling=300, tol=1e-10, max_iter=100000).fit(z, codes)
    np.testing.assert_allclose(z.T @ solution.weights, peer.coef_.T, atol=1e-4)


def test_rows_of_weight_zero_and_of_the_held_out_fold_have_no_say():
    features, _ = blobs(100, 5, 2, dtype=np.float64)
    codes = np.arange(100) % 2
    folds = (np.arange(100) >= 70).astype(np.intp)
    kernel = features @ features.T
    held = dual.solve(kernel, Labels(codes, folds, None), [Problem(0.1, 1)])[0]
    assert not held.weights[70:].any()
    alone = dual.solve(kernel[:70, :70], Labels(codes[:70], folds[:70], None), [Problem(0.1, None)])[0]
    np.testing.assert_allclose(held.weights[:70], alone.weights, atol=1e-10)
