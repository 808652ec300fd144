"""The confidence interval of a proportion."""

from __future__ import annotations

import math

_Z95 = 1.959963984540054


def wilson_interval(share: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % score interval for the true share, if ``share`` (0..1) was observed in ``trials`` (E. B. Wilson,
    JASA 1927).

    For a share of 0 the interval begins exactly at 0; for a share of 1 it ends exactly at 1. If ``trials`` is 0, the
    interval is (0, 1).
    """
    if trials <= 0:
        return 0.0, 1.0
    squared = _Z95**2
    centre = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = _Z95 / (1 + squared / trials) * math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2))
    return (0.0 if share == 0 else max(0.0, centre - half)), (1.0 if share == 1 else min(1.0, centre + half))
