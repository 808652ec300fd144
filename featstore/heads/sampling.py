"""Draw the training rows of an epoch so that every class is equally frequent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Draw = Callable[[np.random.Generator], NDArray[np.intp]]
"""A function that returns the rows of an epoch in the order of training, given a random generator."""


def balanced_sampler(rows: NDArray[np.intp], codes: NDArray[np.intp]) -> Draw:
    """Return a function that draws ``len(rows)`` of ``rows`` with replacement, each class with the same probability.

    ``codes`` (m,): the class numbers of ``rows``.
    """
    members = [rows[codes == code] for code in np.unique(codes)]

    def draw(random: np.random.Generator) -> NDArray[np.intp]:
        counts = random.multinomial(len(rows), np.full(len(members), 1 / len(members)))
        chosen = [random.choice(own, count) for own, count in zip(members, counts, strict=True)]
        return random.permutation(np.concatenate(chosen))

    return draw
