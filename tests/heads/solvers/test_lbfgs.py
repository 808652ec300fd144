from __future__ import annotations

import numpy as np
import scipy.optimize

from featstore.heads.solvers.lbfgs import Lbfgs, run


def test_lbfgs_solves_a_badly_scaled_quadratic():
    random = np.random.default_rng(0)
    eigenvalues = np.logspace(0, 4, 30)
    basis = np.linalg.qr(random.standard_normal((30, 30)))[0]
    matrix = basis * eigenvalues @ basis.T
    right = random.standard_normal((30, 1))
    best = np.linalg.solve(matrix, right)

    def objective(x):
        return float(0.5 * np.vdot(x, matrix @ x) - np.vdot(right, x)) + 100.0, matrix @ x - right

    problem = Lbfgs(np.zeros((30, 1)), lambda g: g / 1000, tol=1e-10, noise=1e-15)
    found = run(problem, objective, 500)
    assert problem.done
    np.testing.assert_allclose(found, best, atol=1e-3)
    assert objective(found)[0] - objective(best)[0] < 1e-6


def test_lbfgs_with_the_exact_hessian_as_preconditioner_needs_one_step():
    diagonal = np.logspace(0, 6, 20)[:, None]
    problem = Lbfgs(np.zeros((20, 1)), lambda g: g / diagonal, tol=1e-12, noise=1e-15)
    run(problem, lambda x: (float(0.5 * np.vdot(x, diagonal * x) - x.sum()) + 10, diagonal * x - 1), 50)
    assert problem.done
    assert problem.evaluations == 2


def test_lbfgs_minimises_the_rosenbrock_function():
    problem = Lbfgs(np.array([-1.2, 1.0]), lambda g: g, tol=1e-14, noise=1e-16)
    run(problem, lambda x: (float(scipy.optimize.rosen(x)) + 1, scipy.optimize.rosen_der(x)), 200)
    np.testing.assert_allclose(problem.best, 1, atol=1e-5)


def test_lbfgs_recovers_from_steps_that_overflow():
    def objective(x):
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.exp(x).sum() - 3 * x.sum()), np.exp(x) - 3

    problem = Lbfgs(np.zeros(2), lambda g: g * 1e4, tol=1e-12, noise=1e-15)
    found = run(problem, objective, 200)
    np.testing.assert_allclose(found, np.log(3), atol=1e-4)


def test_lbfgs_needs_fewer_evaluations_with_initial_curvature_pairs_than_without():
    random = np.random.default_rng(0)
    diagonal = np.logspace(0, 3, 8)[:, None]

    def objective(x):
        return float(0.5 * np.vdot(x, diagonal * x) - x.sum()) + 10, diagonal * x - 1

    steps = random.standard_normal((8, 8, 1))
    taught = Lbfgs(np.zeros((8, 1)), lambda g: g, tol=1e-12, noise=1e-15, pairs=[(s, diagonal * s) for s in steps])
    plain = Lbfgs(np.zeros((8, 1)), lambda g: g, tol=1e-12, noise=1e-15)
    for problem in (taught, plain):
        run(problem, objective, 200)
        np.testing.assert_allclose(problem.best, 1 / diagonal, atol=1e-5)
    assert taught.evaluations < plain.evaluations
