from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from featstore.heads.solvers import dual, grid
from featstore.heads.solvers.losses import SQUARED_HINGE
from featstore.heads.solvers.passes import Problem
from featstore.heads.solvers.rows import Labels, prepare
from tests.heads.made_up import blobs


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_newton_and_lbfgs_reach_the_same_optimum(classes, weighted):
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
def test_dual_solution_satisfies_the_optimality_conditions(C):
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


def test_dual_solution_for_a_linear_kernel_equals_linear_svc():
    features, _ = blobs(150, 5, 3, dtype=np.float64)
    codes = np.arange(150) % 3
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    solution = dual.solve(z @ z.T, Labels(codes, np.zeros(150, np.intp), None), [Problem(0.1, None)])[0]
    peer = LinearSVC(C=0.1, dual=False, intercept_scaling=300, tol=1e-10, max_iter=100000).fit(z, codes)
    np.testing.assert_allclose(z.T @ solution.weights, peer.coef_.T, atol=1e-4)


def test_held_out_rows_do_not_affect_the_dual_solution():
    features, _ = blobs(100, 5, 2, dtype=np.float64)
    codes = np.arange(100) % 2
    folds = (np.arange(100) >= 70).astype(np.intp)
    kernel = features @ features.T
    held = dual.solve(kernel, Labels(codes, folds, None), [Problem(0.1, 1)])[0]
    assert not held.weights[70:].any()
    alone = dual.solve(kernel[:70, :70], Labels(codes[:70], folds[:70], None), [Problem(0.1, None)])[0]
    np.testing.assert_allclose(held.weights[:70], alone.weights, atol=1e-10)


@pytest.mark.parametrize("weights", [None, np.array([2.0, 0.5, 1.0, 3.0])])
def test_solving_classes_together_or_separately_gives_the_same_solutions(weights):
    features, _ = blobs(200, 30, 4, apart=0.8, dtype=np.float64)
    codes, folds = np.arange(200) % 4, np.arange(200) // 4 % 5
    kernel = features @ features.T / 30
    problems = [Problem(C, fold) for C in (0.001, 0.1, 10.0) for fold in (1, None)]
    together = dual.solve(kernel, Labels(codes, folds, weights), problems)
    # With the smallest C most rows are inside the margin, with the largest C fewer than half. The solver has a method for
    # each case.
    inside = [(np.eye(4)[codes] * 2 - 1) * solution.decisions < 1 for solution in together]
    assert inside[0].mean() > 0.9
    assert inside[-1].mean() < 0.5
    for column in range(4):
        row_weights = None if weights is None else weights[codes]
        own = Labels((codes == column).astype(np.intp), folds, None, row_weights)
        for one, shared in zip(dual.solve(kernel, own, problems), together, strict=True):
            assert one.converged
            np.testing.assert_allclose(shared.decisions[:, column], one.decisions[:, 0], atol=1e-9)


def test_dual_solver_needs_no_more_steps_at_a_looser_tolerance():
    features, _ = blobs(300, 20, 3, apart=0.3, dtype=np.float64)
    labels = Labels(np.arange(300) % 3, np.zeros(300, np.intp), None)
    kernel = features @ features.T
    exact = dual.solve(kernel, labels, [Problem(0.1, None)])[0]
    rough = dual.solve(kernel, labels, [Problem(0.1, None)], tol=dual.FOLD_TOLERANCE)[0]
    assert rough.converged
    assert rough.steps <= exact.steps
    assert exact.objective <= rough.objective <= exact.objective * (1 + 1e-5)
    again = dual.solve(kernel, labels, [Problem(0.1, None)], start=(exact.weights, exact.intercept))[0]
    assert again.steps <= 2
    assert again.objective == pytest.approx(exact.objective, rel=1e-12)


def test_dual_solver_reports_reaching_its_step_limit(monkeypatch):
    monkeypatch.setattr(dual, "_STEPS", 1)
    features, _ = blobs(300, 20, 3, apart=0.3, dtype=np.float64)
    labels = Labels(np.arange(300) % 3, np.zeros(300, np.intp), None)
    assert not dual.solve(features @ features.T, labels, [Problem(1.0, None)])[0].converged
