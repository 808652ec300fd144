from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from featstore.blocks import RowBlocks
from featstore.errors import UsageError
from featstore.indexes import blocks
from tests.indexes.made import Source, clusters


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-1e300, 1e300, width=64)))
@settings(deadline=None, max_examples=60)
def test_rows_are_normalised_for_cosine_and_zero_rows_stay_zero(rows: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        narrow = rows.astype(np.float32)
    if not np.isfinite(narrow).all():
        with pytest.raises(UsageError, match="NaN or infinity"):
            blocks.prepare(narrow, "cosine")
        return
    lengths = np.linalg.norm(blocks.prepare(narrow, "cosine").astype(np.float64), axis=1)
    expected = np.where((narrow == 0).all(axis=1), 0.0, 1.0)
    np.testing.assert_allclose(lengths, expected, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_preparing_vectors_reports_the_first_row_that_is_not_finite(metric: blocks.Metric, bad: float) -> None:
    rows = np.ones((5, 3), np.float32)
    rows[3, 1] = bad
    with pytest.raises(UsageError, match="row 13 holds"):
        blocks.prepare(rows, metric, first_row=10)


def test_preparing_vectors_does_not_change_the_input_array() -> None:
    rows = clusters(9)
    before = rows.copy()
    blocks.prepare(rows, "cosine")
    np.testing.assert_array_equal(rows, before)


def test_block_source_and_array_give_the_same_rows() -> None:
    rows = clusters(50).astype(np.float16)
    wanted = np.array([49, 3, 3, 0, 17])
    np.testing.assert_array_equal(blocks.gather(Source(rows), "cosine", wanted), blocks.gather(rows, "cosine", wanted))
    np.testing.assert_array_equal(blocks.gather(rows, "l2", wanted), rows[wanted].astype(np.float32))
    together = np.concatenate([block for _, block in blocks.prepared_blocks(Source(rows), "ip")])
    np.testing.assert_array_equal(together, rows.astype(np.float32))


def test_index_input_rejects_missing_rows_flat_arrays_and_unknown_metrics() -> None:
    class Short(Source):
        @property
        def shape(self) -> tuple[int, ...]:
            return (len(self.array) + 1, self.array.shape[1])

    with pytest.raises(UsageError, match="9 rows where 10 were announced"):
        list(blocks.prepared_blocks(Short(clusters(9)), "l2"))
    with pytest.raises(UsageError, match="shape"):
        blocks.shape_of(np.zeros(3))
    with pytest.raises(UsageError, match="cosine, l2, ip"):
        blocks.check_metric("hamming")


def test_blocks_of_picked_rows_can_be_iterated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "block_rows", lambda dimension: 4)
    rows, places = clusters(50), np.array([49, 3, 3, 0, 17])
    picked = blocks.PickedRows(rows.__getitem__, places, rows.shape[1])
    assert isinstance(picked, RowBlocks)
    assert picked.shape == (5, rows.shape[1])
    for _ in range(2):
        assert [len(block) for block in picked.blocks()] == [4, 1]
        np.testing.assert_array_equal(np.concatenate(list(picked.blocks())), rows[places])


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("scale", [0, 1e-30, 1e-13, 1e-12, 1, 1e15, 1e16, 1e30])
def test_single_query_is_normalised_like_a_query_in_a_batch(metric: blocks.Metric, scale: float) -> None:
    for rows in (clusters(6, 65) * scale, (clusters(6, 130).astype(np.float64) * scale)[:, ::2]):
        together = blocks.prepare(rows, metric)
        alone = np.concatenate([blocks.prepare_queries(rows[row : row + 1], metric) for row in range(len(rows))])
        np.testing.assert_array_max_ulp(alone, together, 2)
        assert alone.dtype == np.float32
        np.testing.assert_array_equal(blocks.prepare_queries(rows, metric), together)


def test_preparing_vectors_does_not_change_rows_of_length_one() -> None:
    rows = blocks.prepare(clusters(40, 65), "cosine")
    assert blocks.prepare(rows, "cosine") is rows
    assert np.shares_memory(blocks.prepare_queries(rows[3:4], "cosine"), rows)
    longer = rows * np.where(np.arange(40) % 2, 1, 3).astype(np.float32)[:, None]
    np.testing.assert_array_equal(blocks.prepare(longer, "cosine")[1::2], rows[1::2])
    np.testing.assert_allclose(blocks.prepare(longer, "cosine"), rows, rtol=1e-6)


def test_preparing_vectors_in_chunks_equals_preparing_the_matrix() -> None:
    rows = clusters(301, 65)
    for step in (1, 7, 300):
        chunks = [blocks.prepare(rows[first : first + step], "cosine") for first in range(0, len(rows), step)]
        np.testing.assert_array_equal(np.concatenate(chunks), blocks.prepare(rows, "cosine"))


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_query_vector_that_is_not_finite_is_rejected(metric: blocks.Metric, bad: float) -> None:
    for others in (0, 1, 1e38):
        query = np.full((1, 40), others, np.float32)
        query[0, 33] = bad
        with pytest.raises(UsageError, match="row 0 holds NaN or infinity"):
            blocks.prepare_queries(query, metric)
