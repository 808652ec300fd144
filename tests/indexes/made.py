"""Synthetic feature matrices for the index tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def clusters(rows: int, dimension: int = 16, seed: int = 0, centres: int = 20) -> NDArray[np.float32]:
    """Return features (rows, dimension) in clusters, as features of pictures are."""
    random = np.random.default_rng(seed)
    middle = random.standard_normal((centres, dimension))
    spread = 0.6 * random.standard_normal((rows, dimension))
    return (middle[random.integers(0, centres, rows)] + spread).astype(np.float32)


@dataclass
class Source:
    """A block source (see featstore.blocks) over an array; ``passes`` counts how often the array was read."""

    array: NDArray[Any]
    rows: int = 7
    passes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def blocks(self) -> Iterator[NDArray[Any]]:
        self.passes += 1
        for first in range(0, len(self.array), self.rows):
            yield self.array[first : first + self.rows]


def brute_force(
    vectors: NDArray[Any], queries: NDArray[Any], metric: str, allowed: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the score (q, n) of each query with each vector in float64; rows not in ``allowed`` get the worst score.

    ``vectors``: (n, d). ``queries``: (q, d). The worst score is inf for l2, -inf otherwise.
    """
    base, asked = vectors.astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        scores = ((asked[:, None] - base[None]) ** 2).sum(axis=2)
    else:
        scores = asked @ base.T
        if metric == "cosine":
            lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(base, axis=1)[None]
            scores = np.divide(scores, lengths, where=lengths > 0, out=np.zeros_like(scores))
    if allowed is not None:
        scores[:, ~allowed] = np.inf if metric == "l2" else -np.inf
    return scores


def best_scores(scores: NDArray[np.float64], k: int, metric: str) -> NDArray[np.float64]:
    """Return the k best of ``scores`` (q queries, n rows) for each query, best first.

    With fewer than k rows the result is padded with the worst score: inf for l2, -inf otherwise.
    """
    ordered = np.sort(scores, axis=1) if metric == "l2" else -np.sort(-scores, axis=1)
    fill = np.inf if metric == "l2" else -np.inf
    return np.pad(ordered[:, :k], ((0, 0), (0, max(0, k - scores.shape[1]))), constant_values=fill)
