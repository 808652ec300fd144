from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel as reference
from sklearn.neighbors import NearestNeighbors

from featstore.heads import models


def test_rbf_kernel_is_scikit_learns():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((20, 5)), random.standard_normal((7, 5))
    np.testing.assert_allclose(models.rbf_kernel(a, b, 0.3), reference(a, b, 0.3))


@pytest.mark.parametrize("excluded", [False, True])
def test_nearest_is_scikit_learns_search(excluded):
    random = np.random.default_rng(0)
    vectors = models.unit_rows(random.standard_normal((500, 6)), np.zeros(6))
    queries = models.unit_rows(random.standard_normal((40, 6)), np.zeros(6))
    out = np.arange(500) % 3 == 0 if excluded else None
    similarity, index = models.nearest(queries, vectors, 10, out)
    kept = np.flatnonzero(~out) if out is not None else np.arange(500)
    distance, expected = NearestNeighbors(n_neighbors=10, metric="cosine").fit(vectors[kept]).kneighbors(queries)
    np.testing.assert_array_equal(index, kept[expected])
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)


def test_votes_count_by_similarity():
    shares = models.vote(np.array([[0.9, 0.9, 0.2]], np.float32), np.array([[0, 1, 1]]), 0.07, 3)
    assert shares[0, 0] == pytest.approx(shares[0, 1], rel=1e-3)
    assert shares[0, 2] == 0
    assert shares.sum() == pytest.approx(1)


def test_unit_rows_leave_the_mean_at_zero():
    rows = models.unit_rows(np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(rows, [[0, 0], [1, 0]])


def test_linear_model_is_the_same_for_any_precision_of_features():
    random = np.random.default_rng(0)
    model = models.LinearModel(random.standard_normal((3, 5)), random.standard_normal(3))
    features = random.standard_normal((10, 5)).astype(np.float16)
    double = models.decide(model, features.astype(np.float64))
    assert double.dtype == np.float64
    np.testing.assert_allclose(models.decide(model, features), double, atol=1e-5)
    np.testing.assert_allclose(model.probabilities(double).sum(axis=1), 1)
