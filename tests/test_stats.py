from __future__ import annotations

import pytest

from featstore.stats import wilson_interval


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(successes: int, trials: int, low: float, high: float) -> None:
    # Values from table I of R. Newcombe, Statistics in Medicine 17 (1998).
    assert wilson_interval(successes / trials, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("trials", [1, 7, 50, 2000, 36480.0])
def test_wilson_interval_ends_are_exact_for_proportions_zero_and_one(trials: float) -> None:
    assert wilson_interval(0.0, trials)[0] == 0
    assert wilson_interval(1.0, trials)[1] == 1
    assert wilson_interval(0.5, 0) == (0, 1)
