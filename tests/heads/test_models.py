from __future__ import annotations

import numpy as np
import pytest

from featstore.heads import models


def test_nearest_neighbour_votes_are_weighted_by_similarity():
    shares = models.vote(np.array([[0.9, 0.9, 0.2]], np.float32), np.array([[0, 1, 1]]), 0.07, 3)
    assert shares[0, 0] == pytest.approx(shares[0, 1], rel=1e-3)
    assert shares[0, 2] == 0
    assert shares.sum() == pytest.approx(1)


def test_linear_model_gives_the_same_decisions_for_float16_and_float64_features():
    random = np.random.default_rng(0)
    model = models.LinearModel(random.standard_normal((3, 5)), random.standard_normal(3))
    features = random.standard_normal((10, 5)).astype(np.float16)
    double = models.decide(model, features.astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_allclose(models.decide(model, features), double, atol=1e-5)
    np.testing.assert_allclose(model.probabilities(double).sum(axis=1), 1)
