from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import StandardScaler

from featstore.errors import DataError
from featstore.heads.solvers import blocks
from tests.heads.made_up import Streamed, blobs


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(2, 60), st.integers(1, 5)), elements=st.floats(-100, 100, width=32)),
    st.integers(1, 20),
)
def test_mean_and_scale_of_blocks_equal_the_standard_scaler(array, step):
    scaler, rows, dtype = blocks.measure(Streamed(array, step), standardize=True)
    expected = StandardScaler().fit(array.astype(np.float64))
    assert rows == len(array)
    assert dtype == np.float32
    np.testing.assert_allclose(scaler.mean, expected.mean_, atol=1e-4)
    clear = expected.var_ > 1e-6
    np.testing.assert_allclose(scaler.scale[clear], np.sqrt(expected.var_[clear]), rtol=1e-3)
    assert (scaler.scale > 0).all()


def test_standard_deviation_is_accurate_for_large_means():
    random = np.random.default_rng(0)
    array = (random.standard_normal((5000, 3)) + 1000).astype(np.float32)
    scaler, _, _ = blocks.measure(array, standardize=True)
    np.testing.assert_allclose(scaler.scale, array.astype(np.float64).std(axis=0), rtol=1e-4)


def test_scaler_divides_constant_columns_by_one():
    array = np.full((50, 2), 0.1, np.float32)
    array[:, 1] = np.arange(50)
    scaler, _, _ = blocks.measure(array, standardize=True)
    assert scaler.scale[0] == 1
    assert np.abs(scaler.apply(array)[:, 0]).max() < 1e-6


def test_rows_are_read_in_blocks_from_read_only_float16_memory_maps(tmp_path):
    array, _ = blobs(rows=100, dimension=5)
    np.save(tmp_path / "x.npy", array.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    pieces = list(blocks.iterate(mapped))
    assert all(piece.dtype == np.float32 for piece in pieces)
    np.testing.assert_array_equal(np.concatenate(pieces), mapped.astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_reading_rows_in_blocks_reports_the_first_row_with_nan_or_infinity(value):
    array, _ = blobs(rows=100, dimension=5)
    array[61, 3] = value
    with pytest.raises(DataError, match=r"NaN or infinity in 1 row\(s\), the first is row 61"):
        list(blocks.iterate(array))
    with pytest.raises(DataError, match=r"in 1 row\(s\), the first is row 61"):
        list(blocks.iterate(Streamed(array)))


def test_reading_rows_in_blocks_rejects_a_source_with_too_few_rows():
    class Exhausted(Streamed):
        @property
        def shape(self) -> tuple[int, int]:
            return (len(self.array) + 1, self.array.shape[1])

    with pytest.raises(DataError, match="announced 11 rows and yielded 10"):
        list(blocks.iterate(Exhausted(np.zeros((10, 2)))))


def test_reading_rows_in_blocks_accepts_very_large_finite_values():
    array = np.full((4, 2), np.finfo(np.float64).max)
    assert len(next(blocks.iterate(array))) == 4


def test_selected_rows_are_the_same_from_arrays_and_block_sources():
    array, _ = blobs(rows=200, dimension=4)
    rows = np.array([0, 3, 36, 37, 38, 150, 199])
    np.testing.assert_array_equal(blocks.take_rows(Streamed(array), rows), array[rows])
    np.testing.assert_array_equal(blocks.take_rows(array, rows), array[rows])


def test_mapped_blocks_have_the_columns_that_their_function_returns():
    array, _ = blobs(rows=80, dimension=4)
    mapped = blocks.MappedBlocks(Streamed(array), lambda block: block[:, :2] * 2, 2)
    assert mapped.shape == (80, 2)
    np.testing.assert_array_equal(np.concatenate(list(mapped.blocks())), array[:, :2] * 2)
