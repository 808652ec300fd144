"""Finding the cheapest run-time parameters that reach a recall, and timing what they cost."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featstore.index import faiss_io
from featstore.index.ladder import Candidate
from featstore.index.recall import Margin, Recall, reaches
from featstore.index.truth import Truth

_REPEATS = 3
_TURNS = 5
_LEAST_SECONDS = 0.2
_BESIDE_SECONDS = 1.5
_SINGLES = 100
_SLOWER = 4


@dataclass(frozen=True)
class Subject:
    """An index under trial: ``rows`` (n,) names the row at each position. ``threads`` as in search."""

    index: faiss_io.VectorIndex
    rows: NDArray[np.int64]
    threads: int | None = None

    def recall(self, truth: Truth) -> Recall:
        """Return the recall on the queries of ``truth`` at the present effort; 1 by construction for an exact index."""
        if self.index.exact:
            return Recall(1.0, 1.0, 1.0, truth.k, 0, "exact")
        _, positions = self.index.search(truth.queries, truth.k, threads=self.threads)
        return truth.recall(np.where(positions >= 0, self.rows[positions], -1))

    def queries_per_second(self, truth: Truth) -> float:
        """Return the rate of a batch of all queries: the best of several, since other work only ever slows it."""
        times: list[float] = []
        while len(times) < _REPEATS or sum(times) < _LEAST_SECONDS:
            times.append(self._timed(truth, slice(None)))
        return len(truth.queries) / min(times)

    def rates_beside(self, other: Subject, truth: Truth) -> tuple[float, float]:
        """Return the rates of this index and of ``other`` on a batch of all queries, timed in turns.

        Other work on the machine, which comes and goes, then slows neither alone.
        """
        own: list[float] = []
        others: list[float] = []
        while len(own) < _TURNS or sum(own) + sum(others) < _BESIDE_SECONDS:
            own.append(self._timed(truth, slice(None)))
            others.append(other._timed(truth, slice(None)))
        return len(truth.queries) / min(own), len(truth.queries) / min(others)

    def latency(self, truth: Truth) -> float:
        """Return the median time of a single query, in seconds."""
        count = min(_SINGLES, len(truth.queries))
        return float(np.median([self._timed(truth, slice(place, place + 1)) for place in range(count)]))

    def _timed(self, truth: Truth, part: slice) -> float:
        start = time.perf_counter()
        self.index.search(truth.queries[part], truth.k, threads=self.threads)
        return max(time.perf_counter() - start, 1e-9)


def tune(
    subject: Subject, candidate: Candidate, truth: Truth, goal: float, margin: Margin | None = None
) -> float | None:
    """Set the quickest effort whose recall reaches ``goal`` and return its queries a second; None where none does.

    Its lower 95 % bound has to be there, and with a ``margin`` that on other queries has to be expected there.

    For each re-ranking depth the smallest main parameter that reaches the goal is found by bisection (recall
    grows with both), and the quickest of these pairs is taken; after _SLOWER depths in a row that were no quicker the
    still deeper ones are not tried. Where none reaches the goal, the greatest effort is left set.
    """
    best: tuple[float, dict[str, float]] | None = None
    slower = 0
    ceiling = max(1, len(candidate.steps))
    for depth in candidate.depths or (None,):
        step = _smallest(ceiling, partial(_reached, subject, candidate, depth, truth, goal, margin))
        if step is None:
            continue
        subject.index.effort = effort = candidate.effort(step, depth)
        rate = subject.queries_per_second(truth)
        if best is None or rate > best[0]:
            best, slower = (rate, effort), 0
        else:
            slower += 1
        # A deeper re-ranking pays only where it makes do with less of the main parameter.
        ceiling = step
        if not ceiling or slower == _SLOWER:
            break
    subject.index.effort = candidate.greatest if best is None else best[1]
    return None if best is None else best[0]


def _reached(
    subject: Subject,
    candidate: Candidate,
    depth: float | None,
    truth: Truth,
    goal: float,
    margin: Margin | None,
    step: int,
) -> bool:
    subject.index.effort = candidate.effort(step, depth)
    recall = subject.recall(truth)
    return reaches(recall, goal) if margin is None else margin.kept(recall, goal)


def _smallest(count: int, holds: Callable[[int], bool]) -> int | None:
    """The first of 0 .. count - 1 for which ``holds``, which never turns false again; None where there is none."""
    place = bisect_left(range(count), True, key=holds)
    return place if place < count else None
