from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

from featstore.heads.solvers.losses import LOGISTIC, SQUARED_HINGE, columns


def brute(name, z, code, count):
    if name == "logistic":
        if count == 1:
            return np.logaddexp(0, z[0]) - code * z[0]
        return np.log(np.exp(z).sum()) - z[code]
    signs = np.array([1.0 if code == 1 else -1.0]) if count == 1 else np.where(np.arange(count) == code, 1.0, -1.0)
    return (np.maximum(0, 1 - signs * z) ** 2).sum()


@pytest.mark.parametrize("loss", [LOGISTIC, SQUARED_HINGE], ids=lambda loss: loss.name)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_equal_their_definition_and_derivatives_equal_finite_differences(loss, classes, weighted):
    random = np.random.default_rng(1)
    count = columns(classes)
    values = random.standard_normal((count, 3, 20)) * 2
    codes = random.integers(0, classes, 20)
    weights = random.random(20) if weighted else None
    row = np.ones(20) if weights is None else weights
    sums, bend, derivative = loss.evaluate(values.copy(), codes, weights)
    expected = [sum(row[i] * brute(loss.name, values[:, p, i], codes[i], count) for i in range(20)) for p in range(3)]
    np.testing.assert_allclose(sums, expected)

    def total(flat):
        return loss.evaluate(flat.reshape(values.shape).copy(), codes, weights)[0].sum()

    slope = scipy.optimize.approx_fprime(values.ravel(), total, 1e-7)
    np.testing.assert_allclose(derivative.ravel(), slope, atol=1e-5)
    slopes = [
        loss.evaluate(values + step, codes, weights)[2]
        for step in (np.eye(count)[c][:, None, None] * 1e-6 for c in range(count))
    ]
    bends = sum((slopes[c] - derivative)[c].sum(axis=1) / 1e-6 for c in range(count)) / count
    np.testing.assert_allclose(bend, bends, rtol=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_loss_is_finite_for_huge_decisions(classes):
    values = np.full((columns(classes), 1, 2), 1e4, np.float32)
    values[:, :, 1] = -1e4
    if classes == 3:
        values[0] *= -1
    sums, _, derivative = LOGISTIC.evaluate(values, np.array([0, 1]), None)
    assert np.isfinite(sums).all()
    assert np.isfinite(derivative).all()
