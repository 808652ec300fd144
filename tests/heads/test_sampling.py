"""The balanced sampler draws every class equally often, with replacement."""

from __future__ import annotations

import numpy as np
import pytest

from featstore.heads.sampling import balanced_sampler


def test_balanced_sampler_draws_both_classes_equally_often():
    codes = np.repeat([0, 1], [900, 100])
    draw, random = balanced_sampler(np.arange(1000), codes), np.random.default_rng(0)
    shares = [codes[draw(random)].mean() for _ in range(20)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert len(draw(random)) == 1000
    assert len(np.unique(draw(random))) > 400
