"""Synthetic "dead leaves" pictures, whose edges, areas and sizes are distributed as in photographs.

The pictures consist of overlapping shapes with power-law sizes (Lee, Mumford and Huang 2001, "Occlusion models for
natural images"). Networks respond to dead leaves similarly as to photographs (Baradad et al. 2021, arXiv 2106.05963).
Therefore the pictures are used to measure activation ranges without a data set.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAVES = 300
_SMALLEST_RADIUS = 4.0
_POWER = 1.5


def dead_leaves(seed: int, side: int) -> NDArray[np.uint8]:
    """Return the synthetic picture (side, side, 3) uint8 that is drawn with the random seed ``seed``."""
    rng = np.random.default_rng(seed)
    picture = np.empty((side, side, 3), np.float32)
    picture[:] = rng.uniform(0, 255, 3)
    radii = np.minimum(side / 2, _SMALLEST_RADIUS * side / 224 * (1 + rng.pareto(_POWER, _LEAVES)))
    for radius in radii:
        x, y = rng.uniform(0, side, 2)
        stretch = rng.uniform(0.3, 2)
        left, right = (int(np.clip(v, 0, side)) for v in (x - radius, x + radius + 1))
        top, bottom = (int(np.clip(v, 0, side)) for v in (y - radius * stretch, y + radius * stretch + 1))
        area = picture[top:bottom, left:right]
        colour = rng.uniform(0, 255, 3) + rng.normal(0, 10, 3)
        if rng.random() < 0.5:
            area[:] = colour
        else:
            across = ((np.arange(left, right) - x) / radius) ** 2
            down = ((np.arange(top, bottom) - y) / (radius * stretch)) ** 2
            area[down[:, None] + across[None, :] < 1] = colour
    picture += rng.normal(0, rng.uniform(0, 15), picture.shape)
    return picture.clip(0, 255).astype(np.uint8)
