from __future__ import annotations

import numpy as np
import pytest

from featstore.errors import DataError
from featstore.heads.solvers.rows import Labels, MemoryRows, StreamedRows, prepare
from tests.heads.made_up import Streamed, blobs


def gathered(rows):
    values = np.empty((len(rows.labels.codes), rows.dimension))
    seen = []
    for segment in rows.segments():
        values[segment.rows] = segment.values
        seen += segment.rows.tolist()
        assert (rows.labels.folds[segment.rows] == segment.fold).all()
        np.testing.assert_array_equal(segment.codes, rows.labels.codes[segment.rows])
    assert sorted(seen) == list(range(len(values)))
    return values


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_prepared_training_segments_contain_every_training_row_once(memory):
    features, _ = blobs(500, 7, 3)
    labels = Labels(np.arange(500) % 3, np.random.default_rng(0).integers(-1, 4, 500), np.array([1.0, 2.0, 3.0]))
    rows, scaler = prepare(Streamed(features), labels, standardize=True, memory=memory)
    assert isinstance(rows, MemoryRows if memory else StreamedRows)
    values = gathered(rows)
    np.testing.assert_allclose(values, scaler.apply(features), rtol=1e-6)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(axis=0), 1, atol=1e-5)
    for segment in rows.segments():
        np.testing.assert_array_equal(segment.weights, segment.codes + 1.0)


def test_projecting_wide_features_to_their_row_space_keeps_decisions():
    features, _ = blobs(30, 90, 3, dtype=np.float64)
    labels = Labels(np.arange(30) % 3, np.zeros(30, np.intp), None)
    rows, scaler = prepare(features, labels, standardize=True)
    assert rows.dimension < 30
    weights = np.random.default_rng(0).standard_normal((rows.dimension, 2))
    full = rows.to_features(weights)
    assert full.shape == (90, 2)
    np.testing.assert_allclose(scaler.apply(features) @ full, gathered(rows) @ weights, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(full), np.linalg.norm(weights))


def test_preparing_training_rejects_different_numbers_of_rows_and_labels():
    with pytest.raises(DataError, match="5 rows of features and 4 labels"):
        prepare(np.zeros((5, 2)), Labels(np.zeros(4, np.intp), np.zeros(4, np.intp), None), standardize=True)
