from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import rbf_kernel as reference
from sklearn.neighbors import NearestNeighbors

from featstore.heads import rowwise


def test_rbf_kernel_equals_that_of_scikit_learn():
    random = np.random.default_rng(0)
    a, b = random.standard_normal((20, 5)), random.standard_normal((7, 5))
    np.testing.assert_allclose(rowwise.rbf_kernel(a, b, 0.3), reference(a, b, 0.3))


@pytest.mark.parametrize("excluded", [False, True])
def test_nearest_rows_equal_those_found_by_scikit_learn(excluded):
    random = np.random.default_rng(0)
    vectors = rowwise.unit_rows(random.standard_normal((500, 6)), np.zeros(6))
    queries = rowwise.unit_rows(random.standard_normal((40, 6)), np.zeros(6))
    out = np.arange(500) % 3 == 0 if excluded else None
    similarity, index = rowwise.nearest(queries, vectors, 10, out)
    kept = np.flatnonzero(~out) if out is not None else np.arange(500)
    distance, expected = NearestNeighbors(n_neighbors=10, metric="cosine").fit(vectors[kept]).kneighbors(queries)
    np.testing.assert_array_equal(index, kept[expected])
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)


def test_centred_vector_that_equals_the_mean_becomes_zero():
    rows = rowwise.unit_rows(np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(rows, [[0, 0], [1, 0]])
