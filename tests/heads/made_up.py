"""Synthetic features for tests: classes with Gaussian distributions, drawn with a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def blobs(
    rows: int = 300,
    dimension: int = 12,
    classes: int = 3,
    *,
    apart: float = 1.0,
    seed: int = 0,
    dtype: Any = np.float32,
) -> tuple[NDArray[Any], NDArray[np.str_]]:
    """Return features (rows, dimension) and labels (rows,); scale and offset differ between the columns."""
    random = np.random.default_rng(seed)
    codes = np.arange(rows) % classes
    centres = random.standard_normal((classes, dimension)) * apart
    features = random.standard_normal((rows, dimension)) + centres[codes]
    features = features * np.exp(random.standard_normal(dimension)) + 3 * random.standard_normal(dimension)
    return features.astype(dtype), np.array([f"class {code}" for code in codes])


@dataclass(frozen=True)
class Streamed:
    """A block source (see featstore.blocks) that yields ``array`` in blocks of ``step`` rows."""

    array: NDArray[Any]
    step: int = 37

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    def blocks(self) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self.array), self.step):
            yield self.array[start : start + self.step]
