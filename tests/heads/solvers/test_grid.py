from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.svm import LinearSVC

from featstore.heads.solvers import grid
from featstore.heads.solvers.losses import LOGISTIC, SQUARED_HINGE, columns
from featstore.heads.solvers.passes import Problem, evaluate
from featstore.heads.solvers.rows import Labels, prepare
from tests.heads.made_up import Streamed, blobs


def made(rows, dimension, classes, *, folds=3, weights=None, dtype=np.float64, memory=1 << 30, seed=0):
    features, _ = blobs(rows, dimension, classes, seed=seed, dtype=dtype)
    codes = np.arange(rows) % classes
    fold = np.random.default_rng(seed).integers(0, folds, rows)
    training, scaler = prepare(features, Labels(codes, fold, weights), standardize=True, memory=memory)
    return training, scaler.apply(features), codes, fold


def sklearn_objective(z, codes, C, weights, intercept, classes):
    """Return scikit-learn's objective, 0.5 ||W||^2 + C * sum of log losses, computed independently of featstore."""
    decisions = z @ weights + intercept
    if classes == 2:
        losses = np.logaddexp(0, decisions[:, 0]) - codes * decisions[:, 0]
    else:
        losses = np.logaddexp.reduce(decisions, axis=1) - decisions[np.arange(len(z)), codes]
    return 0.5 * (weights**2).sum() + C * losses.sum()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shape", [(300, 12), (40, 100)], ids=["tall", "wide: rotated"])
def test_grid_solver_reaches_the_optimum_of_scikit_learn(classes, shape):
    training, z, codes, fold = made(*shape, classes)
    problems = [Problem(C, f) for C in (0.01, 1.0, 100.0) for f in (0, 1, 2, None)]
    solutions = grid.solve(training, LOGISTIC, problems, tol=1e-13)
    for problem, solution in zip(problems, solutions, strict=True):
        inside = fold != problem.fold if problem.fold is not None else np.ones(len(codes), bool)
        peer = LogisticRegression(C=problem.C, solver="newton-cholesky", tol=1e-10).fit(z[inside], codes[inside])
        theirs = sklearn_objective(z[inside], codes[inside], problem.C, peer.coef_.T, peer.intercept_, classes)
        weights = training.to_features(solution.weights)
        ours = sklearn_objective(z[inside], codes[inside], problem.C, weights, solution.intercept, classes)
        assert solution.converged
        assert ours <= theirs * (1 + 1e-8)
        assert ours == pytest.approx(theirs, rel=1e-6)
        assert solution.objective == pytest.approx(ours, rel=1e-10)
        np.testing.assert_allclose(weights, peer.coef_.T, atol=2e-3 * np.abs(peer.coef_).max())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE], ids=lambda loss: loss.name)
def test_loss_gradient_equals_finite_differences_and_vanishes_at_the_optimum(classes, loss):
    training, _, _, _ = made(120, 5, classes, weights=np.array([2.0, 0.5, 1.0])[:classes])
    problems = [Problem(0.7, 1), Problem(3.0, None)]
    random = np.random.default_rng(0)
    points = random.standard_normal((2, columns(classes), 6))

    def total(flat):
        return evaluate(training, loss, problems, flat.reshape(points.shape)).values.sum()

    gradients = evaluate(training, loss, problems, points).gradients
    slope = scipy.optimize.approx_fprime(points.ravel(), total, 1e-7)
    np.testing.assert_allclose(gradients.ravel(), slope, rtol=1e-4, atol=1e-3)
    solutions = grid.solve(training, loss, problems, tol=1e-14)
    best = np.stack([np.vstack([s.weights, s.intercept]).T for s in solutions])
    at_best = evaluate(training, loss, problems, best).gradients
    assert np.abs(at_best).max() < 1e-4 * np.abs(gradients).max()


def test_linear_svm_equals_linear_svc_with_large_intercept_scaling():
    training, z, codes, _ = made(300, 10, 3)
    solution = grid.solve(training, SQUARED_HINGE, [Problem(0.1, None)], tol=1e-13)[0]
    peer = LinearSVC(C=0.1, dual=False, intercept_scaling=1e3, tol=1e-10, max_iter=100000).fit(z, codes)
    np.testing.assert_allclose(solution.weights.T, peer.coef_, atol=1e-4)
    np.testing.assert_allclose(solution.intercept, peer.intercept_, atol=1e-4)


def test_class_weights_have_the_same_effect_as_in_scikit_learn():
    weights = {0: 3.0, 1: 0.25, 2: 1.0}
    training, z, codes, _ = made(300, 8, 3, weights=np.array(list(weights.values())))
    solution = grid.solve(training, LOGISTIC, [Problem(1.0, None)], tol=1e-13)[0]
    peer = LogisticRegression(C=1.0, class_weight=weights, tol=1e-10, max_iter=10000).fit(z, codes)
    np.testing.assert_allclose(solution.weights.T, peer.coef_, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_solver_reaches_the_same_optimum_from_streamed_rows(dtype):
    features, _ = blobs(2000, 20, 3, dtype=dtype)
    codes = np.arange(2000) % 3
    labels = Labels(codes, np.random.default_rng(0).integers(-1, 3, 2000), None)
    problems = [Problem(C, f) for C in (0.01, 1.0) for f in (0, 1, 2, None)]
    results = []
    for source, memory in ((features, 1 << 30), (Streamed(features, 333), 0)):
        training, _ = prepare(source, labels, standardize=True, memory=memory)
        solutions = grid.solve(training, LOGISTIC, problems, tol=1e-7)
        folded = [solution for solution in solutions if solution.problem.fold is not None]
        results.append((solutions, grid.score(training, folded), grid.held_out_decisions(training, folded[:3])))
    (ours, scores, held), (streamed, streamed_scores, streamed_held) = results
    for a, b in zip(ours, streamed, strict=True):
        assert a.objective == pytest.approx(b.objective, rel=1e-6)
    np.testing.assert_allclose(scores.accuracy, streamed_scores.accuracy, atol=2e-3)
    np.testing.assert_array_equal(np.sort(held[1]), np.sort(streamed_held[1]))
    np.testing.assert_allclose(held[0][np.argsort(held[1])], streamed_held[0][np.argsort(streamed_held[1])], atol=1e-2)


def test_float32_objective_is_within_five_millionths_of_the_float64_optimum():
    features, _ = blobs(1500, 30, 4)
    labels = Labels(np.arange(1500) % 4, np.zeros(1500, np.intp), None)
    single, _ = prepare(features, labels, standardize=True)
    double, _ = prepare(features.astype(np.float64), labels, standardize=True)
    problems = [Problem(C, None) for C in (0.01, 1.0, 100.0)]
    exact = grid.solve(double, LOGISTIC, problems, tol=1e-13)
    found = grid.solve(single, LOGISTIC, problems)
    points = np.stack([np.vstack([s.weights, s.intercept]).T for s in found])
    reached = evaluate(double, LOGISTIC, problems, points).values
    for best, solution, objective in zip(exact, found, reached, strict=True):
        assert solution.converged
        assert best.objective <= objective * (1 + 1e-9)
        assert objective == pytest.approx(best.objective, rel=5e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_cross_validation_scores_equal_those_of_scikit_learn(classes):
    training, z, codes, fold = made(300, 6, classes)
    solutions = grid.solve(training, LOGISTIC, [Problem(1.0, f) for f in range(3)])
    scores = grid.score(training, solutions)
    for f in range(3):
        out = fold == f
        peer = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(z[~out], codes[~out])
        assert scores.rows[f] == out.sum()
        assert scores.accuracy[f] == pytest.approx(peer.score(z[out], codes[out]), abs=1e-9)
        predicted = peer.predict(z[out])
        assert scores.balanced_accuracy[f] == pytest.approx(balanced_accuracy_score(codes[out], predicted), abs=1e-9)
        assert scores.log_loss[f] == pytest.approx(log_loss(codes[out], peer.predict_proba(z[out])), rel=1e-3)


def test_held_out_rows_are_scored_by_the_model_of_their_fold():
    training, z, _, fold = made(90, 4, 2)
    solutions = grid.solve(training, LOGISTIC, [Problem(1.0, f) for f in range(3)], tol=1e-12)
    decisions, numbers = grid.held_out_decisions(training, solutions)
    assert sorted(numbers.tolist()) == list(range(90))
    for decision, row in zip(decisions, numbers, strict=True):
        solution = solutions[fold[row]]
        np.testing.assert_allclose(decision, z[row] @ solution.weights + solution.intercept, atol=1e-9)


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE], ids=lambda loss: loss.name)
def test_lbfgs_curvature_pairs_can_be_rescaled_to_another_C(loss):
    training, _, _, _ = made(200, 6, 3)
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 1, 3, 7))
    small, large = (
        evaluate(training, loss, [Problem(C, 0)], second).gradients[0]
        - evaluate(training, loss, [Problem(C, 0)], first).gradients[0]
        for C in (0.1, 2.0)
    )
    step = (second - first)[0]
    ((kept, carried),) = grid._carried([(step, small)], 20.0)
    np.testing.assert_array_equal(kept, step)
    np.testing.assert_allclose(carried, large, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE], ids=lambda loss: loss.name)
def test_solving_all_C_together_needs_fewer_evaluations_than_one_by_one_for_the_same_optima(loss):
    training, _, _, _ = made(600, 30, 2)
    problems = [Problem(C, f) for C in (10.0, 0.01, 0.1, 1.0) for f in (0, 1)]
    together = grid.solve(training, loss, problems, tol=1e-8)
    alone = [grid.solve(training, loss, [problem], tol=1e-8)[0] for problem in problems]
    for one, other in zip(together, alone, strict=True):
        assert one.problem == other.problem
        assert one.converged
        assert one.objective == pytest.approx(other.objective, rel=1e-6)
    assert sum(s.evaluations for s in together) < 0.8 * sum(s.evaluations for s in alone)
    assert grid.effort(training, together).passes == max(
        sum(s.evaluations for s in together if s.problem.fold == f) for f in (0, 1)
    )


def test_final_fit_needs_fewer_evaluations_if_started_from_fold_solutions():
    training, _, _, _ = made(600, 30, 3)
    folds = grid.solve(training, LOGISTIC, [Problem(1.0, f) for f in range(3)], tol=1e-4)
    cold = grid.solve(training, LOGISTIC, [Problem(1.0, None)], tol=1e-9)[0]
    warm = grid.solve(training, LOGISTIC, [Problem(1.0, None)], tol=1e-9, start=grid.start_from(folds, 1.5))[0]
    assert warm.objective == pytest.approx(cold.objective, rel=1e-8)
    assert warm.evaluations < cold.evaluations


def test_grid_solver_stops_at_max_passes_and_reports_it():
    training, _, _, _ = made(300, 12, 2)
    solutions = grid.solve(training, LOGISTIC, [Problem(C, None) for C in (0.1, 1.0)], tol=1e-12, max_passes=2)
    assert [s.evaluations for s in solutions] == [2, 2]
    assert not any(s.converged for s in solutions)
