from __future__ import annotations

import numpy as np
import pytest

from featstore.heads.solvers.halves import all_finite, is_half, widen

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_conversion_to_float32_is_exact_for_every_finite_float16():
    finite = EVERY[np.isfinite(EVERY)].reshape(-1, 8)
    wide = widen(finite)
    assert wide.dtype == np.float32
    # Compare the bits, because == does not distinguish -0 from 0.
    np.testing.assert_array_equal(wide.view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_conversion_to_float32_handles_several_chunks_and_strided_rows(monkeypatch):
    monkeypatch.setattr("featstore.heads.solvers.halves._CHUNK", 64)
    halves = np.random.default_rng(0).standard_normal((101, 30)).astype(np.float16)
    np.testing.assert_array_equal(widen(halves), halves.astype(np.float32))
    np.testing.assert_array_equal(widen(halves[::3, ::2]), halves[::3, ::2].astype(np.float32))
    out = np.empty((101, 30), np.float32)
    assert widen(halves, out) is out
    assert widen(halves[:0]).shape == (0, 30)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_function_all_finite_checks_every_chunk_of_a_float16_array(monkeypatch, value):
    monkeypatch.setattr("featstore.heads.solvers.halves._CHUNK", 64)
    halves = np.full((50, 30), np.finfo(np.float16).max, np.float16)
    halves[1] = np.finfo(np.float16).min
    assert all_finite(halves)
    assert all_finite(halves[:0])
    halves[49, 29] = value
    assert not all_finite(halves)


def test_function_is_half_rejects_float16_in_non_native_byte_order():
    assert is_half(EVERY)
    assert not is_half(EVERY.astype(EVERY.dtype.newbyteorder()))
    assert not is_half(EVERY.astype(np.float32))
