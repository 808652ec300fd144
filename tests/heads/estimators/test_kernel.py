from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from sklearn.datasets import make_moons
from sklearn.svm import SVC

from featstore.heads import KernelSVMHead, LinearSVMHead
from featstore.heads.rowwise import rbf_kernel


def test_exact_kernel_head_reaches_the_optimum_of_the_dual_problem():
    X, y = make_moons(60, noise=0.25, random_state=0)
    head = KernelSVMHead(C=2.0, gamma=0.7, tol=1e-9).fit(X, y)
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    kernel = rbf_kernel(z, z, 0.7)
    sign = np.where(y == 1, 1.0, -1.0)

    def objective(parameters):
        """Return the objective 0.5 a'Ka + C sum max(0, 1 - y f)^2 for the dual weights a and the intercept."""
        a, b = parameters[:-1], parameters[-1]
        f = kernel @ a + b
        slack = np.maximum(0, 1 - sign * f)
        value = 0.5 * a @ kernel @ a + 2.0 * (slack**2).sum()
        pull = -2 * 2.0 * slack * sign
        return value, np.append(kernel @ (a + pull), pull.sum())

    best = scipy.optimize.minimize(objective, np.zeros(61), jac=True, options={"maxiter": 20000, "gtol": 1e-9})
    expected = kernel @ best.x[:-1] + best.x[-1]
    np.testing.assert_allclose(head.decision_function(X), expected, atol=2e-3)


def test_kernel_head_separates_nonlinear_data_as_well_as_svc():
    X, y = make_moons(900, noise=0.2, random_state=1)
    head = KernelSVMHead(cv=3).fit(X[:400], y[:400])
    peer = SVC(C=10).fit((X[:400] - X[:400].mean(0)) / X[:400].std(0), y[:400])
    theirs = peer.score((X[400:] - X[:400].mean(0)) / X[:400].std(0), y[400:])
    assert head.exact_
    assert head.score(X[400:], y[400:]) > theirs - 0.015
    assert head.score(X[400:], y[400:]) > LinearSVMHead().fit(X[:400], y[:400]).score(X[400:], y[400:]) + 0.05


def test_nystroem_with_all_rows_as_landmarks_equals_the_exact_kernel_head():
    X, y = make_moons(500, noise=0.2, random_state=2)
    exact = KernelSVMHead(C=1.0, gamma=1.0).fit(X, y)
    same = KernelSVMHead(C=1.0, gamma=1.0, exact_rows=1, landmarks=500).fit(X, y)
    fewer = KernelSVMHead(C=1.0, gamma=1.0, exact_rows=1, landmarks=80).fit(X, y)
    assert not fewer.exact_
    assert fewer.model_.landmarks.shape == (80, 2)
    np.testing.assert_allclose(same.decision_function(X), exact.decision_function(X), atol=5e-2)
    assert (fewer.predict(X) == exact.predict(X)).mean() > 0.97


def test_kernel_head_selects_C_and_gamma_from_all_combinations():
    X, y = make_moons(200, noise=0.2, random_state=3)
    head = KernelSVMHead(Cs=(0.1, 1.0), gammas=(0.5, 2.0), cv=3).fit(X, y)
    results = head.cv_results_
    assert results["param_C"].tolist() == [0.1, 0.1, 1.0, 1.0]
    assert len(set(results["param_gamma"])) == 2
    best = results["mean_accuracy"].argmax()
    assert (head.C_, head.gamma_) == (results["param_C"][best], results["param_gamma"][best])


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan"), "scale"])
def test_kernel_head_rejects_invalid_values_of_gamma(gamma):
    X, y = make_moons(50, random_state=0)
    with pytest.raises(ValueError, match="gamma must be"):
        KernelSVMHead(gamma=gamma).fit(X, y)


def test_kernel_head_can_be_trained_on_repeated_rows():
    X, y = make_moons(60, noise=0.1, random_state=0)
    doubled = KernelSVMHead(C=1.0, gamma=1.0).fit(np.repeat(X, 3, axis=0), np.repeat(y, 3))
    assert doubled.score(X, y) > 0.9
