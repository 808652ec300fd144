from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featstore.indexes.blocks import Metric
from featstore.indexes.tuning.ladder import Candidate, ladder, lists_for
from featstore.indexes.tuning.trials import create
from tests.indexes.made import clusters

ROWS, DIMENSION = 5000, 64
METRICS: tuple[Metric, ...] = ("cosine", "l2")


@pytest.mark.parametrize(
    ("metric", "candidate"),
    [(metric, one) for metric in METRICS for one in ladder(ROWS, DIMENSION, metric)],
    ids=lambda one: getattr(one, "name", one),
)
def test_candidate_indexes_find_neighbours_and_have_the_estimated_size(
    candidate: Candidate, metric: Metric, tmp_path: Path
) -> None:
    # Variances decrease over the columns, as in real features; otherwise PCA loses too much of the variance.
    vectors = clusters(ROWS, DIMENSION) / np.sqrt(np.arange(1, DIMENSION + 1, dtype=np.float32))
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = create(candidate.factory, DIMENSION, metric, seed=0)
    index.train(vectors)
    index.add(vectors, np.arange(ROWS))
    index.effort = candidate.greatest
    assert index.effort == candidate.greatest
    _, found = index.search(vectors[:50], 1)
    assert (found[:, 0] == np.arange(50)).mean() > 0.7
    index.write(tmp_path / "x")
    # file_bytes is an upper bound of the index file's size, and row_bytes is at most 11 % too large.
    assert (tmp_path / "x").stat().st_size <= candidate.file_bytes(ROWS)
    assert (tmp_path / "x").stat().st_size > 0.9 * ROWS * candidate.row_bytes


def test_number_of_inverted_lists_grows_with_the_square_root_of_rows() -> None:
    assert [lists_for(rows) for rows in (1, 10_000, 60_000, 1_000_000)] == [4, 128, 256, 1024]


def test_candidate_indexes_use_product_codes_that_divide_the_dimension() -> None:
    names = [one.name for one in ladder(ROWS, 63, "cosine")]
    assert names == ["flat", "pca8-ivf-pq2-fp16", "pca8-ivf-pq2-8", "hnsw-fp16", "hnsw-8"]


def test_product_codes_encode_residuals_only_for_the_metrics_cosine_and_ip() -> None:
    for metric, residual in (("cosine", True), ("ip", True), ("l2", False)):
        for one in ladder(ROWS, DIMENSION, metric):
            assert "x4fs" not in one.factory or ("x4fsr" in one.factory) == residual
