"""Drift: the difference between features and reference features, relative to the spread of the features."""

from __future__ import annotations

import numpy as np
import pytest

from featstore.engines import EXACT, drift
from featstore.errors import UsageError


def features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5, 0.1, (20, 16)).astype(np.float32)


def test_engine_drift_of_equal_features_is_zero() -> None:
    result = drift(features(), features())
    assert result["greatest_difference"] == 0
    assert result["neighbour_agreement"] == 1
    assert result["cosine_min"] == pytest.approx(1)
    assert result["spread"] == pytest.approx(0.1, rel=0.1)


def test_feature_differences_are_in_units_of_their_standard_deviation() -> None:
    changed = features()
    changed[3, 4] += 0.05
    result = drift(changed, features())
    assert result["greatest_difference"] == pytest.approx(0.05 / result["spread"], rel=1e-3)


def test_different_pictures_have_large_drift_despite_high_cosine() -> None:
    result = drift(features(1), features(0))
    assert result["cosine_min"] > 0.99
    assert result["greatest_difference"] > 1000 * EXACT
    assert result["centred_cosine_min"] < 0.5
    assert result["neighbour_agreement"] < 0.5


def test_engine_drift_of_constant_features_is_zero() -> None:
    constant = np.ones((3, 4), np.float32)
    assert drift(constant, constant)["greatest_difference"] == 0


@pytest.mark.parametrize("shape", [(1, 4), (4,), (3, 5)])
def test_engine_drift_rejects_feature_matrices_of_different_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="same two or more"):
        drift(np.zeros(shape, np.float32), np.zeros((3, 4) if shape == (3, 5) else shape, np.float32))
