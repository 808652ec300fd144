from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from featstore.heads.solvers.blocks import measure, working_dtype
from featstore.heads.solvers.standardising import RawRows, Standardiser
from tests.heads.made_up import blobs


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64, ">f2", np.int8])
def test_rows_standardised_on_the_fly_equal_those_of_the_scaler_bit_for_bit(stored):
    block = blobs(90, 11)[0].astype(stored)
    scaler, _, dtype = measure(block, standardize=True)
    expected = scaler.apply(block.astype(dtype))
    standardiser = Standardiser(scaler, working_dtype(stored))
    inside = np.array([0, 3, 4, 17, 89])
    for raw, rows in (
        (RawRows(block, None, standardiser), np.arange(90)),
        (RawRows(block, inside, standardiser), inside),
    ):
        assert len(raw) == len(rows)
        np.testing.assert_array_equal(raw.all(), expected[rows])
        for part in (slice(0, 3), slice(2, 40), slice(4, 5), slice(3, 3)):
            np.testing.assert_array_equal(raw.read(part), expected[rows[part]])


def test_standardiser_uses_a_separate_buffer_in_each_thread():
    block = blobs(64, 5)[0]
    scaler, _, dtype = measure(block, standardize=True)
    raw = RawRows(block, None, Standardiser(scaler, dtype))
    here = raw.read(slice(0, 10))
    before = here.copy()
    with ThreadPoolExecutor(1) as other:
        there = other.submit(raw.read, slice(30, 40)).result()
    np.testing.assert_array_equal(here, before)
    assert not np.shares_memory(here, there)
    again = raw.read(slice(10, 20))
    assert np.shares_memory(again, here)
