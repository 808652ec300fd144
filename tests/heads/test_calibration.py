from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax as reference_softmax

from featstore.heads.calibration import fit_scale, log_softmax, rescale, softmax
from featstore.heads.evaluation.report import before_calibration, evaluate


def test_scaled_softmax_equals_that_of_scipy():
    decisions = np.random.default_rng(0).standard_normal((30, 4)) * 50
    np.testing.assert_allclose(softmax(decisions, 0.5), reference_softmax(decisions * 0.5, axis=1), atol=1e-15)


@pytest.mark.parametrize("columns", [1, 3])
def test_log_softmax_is_finite_for_huge_decisions(columns):
    decisions = np.array([[1e4] * columns, [-1e4] * columns])
    decisions[:, 0] *= 0.5
    assert softmax(decisions).sum(axis=1) == pytest.approx(1)
    assert np.isfinite(log_softmax(decisions)).all()
    moderate = decisions / 1e3
    np.testing.assert_allclose(np.exp(log_softmax(moderate)), softmax(moderate), atol=1e-15)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_temperature_scaling_recovers_the_true_scale(classes, scale):
    random = np.random.default_rng(3)
    decisions = random.standard_normal((40_000, 1 if classes == 2 else classes))
    shares = softmax(decisions, scale).cumsum(axis=1)
    codes = (random.random((len(decisions), 1)) > shares).sum(axis=1)
    assert fit_scale(decisions, codes, classes) == pytest.approx(scale, rel=0.1)


def test_temperature_scaling_is_finite_for_perfectly_separated_rows():
    decisions = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    found = fit_scale(decisions, np.array([0, 0, 1, 1]), 2)
    assert 0.1 < found < 100


@pytest.mark.parametrize("columns", [1, 4])
def test_rescaling_probabilities_equals_softmax_of_rescaled_decisions(columns):
    decisions = np.random.default_rng(0).normal(scale=3, size=(200, columns))
    np.testing.assert_allclose(rescale(softmax(decisions, 2.5), 1 / 2.5), softmax(decisions), atol=1e-12)
    np.testing.assert_array_equal(rescale(np.array([[1.0, 0.0]]), 0.5).round(6), [[1.0, 0.0]])


def test_calibration_report_before_scaling_uses_uncalibrated_decisions():
    random = np.random.default_rng(1)
    codes = random.integers(0, 3, 500)
    decisions = 6 * (np.eye(3)[codes] + random.normal(size=(500, 3)))
    plain = evaluate(codes, softmax(decisions), [0, 1, 2], replicates=2)
    before = before_calibration(codes, softmax(decisions, 0.3), [0, 1, 2], 0.3)
    assert before == pytest.approx({name: plain.estimates[name].value for name in before})
