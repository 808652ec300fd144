"""Finding the cheapest run-time parameters that reach a recall, and timing what they cost."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featstore.index import faiss_io
from featstore.index.ladder import Candidate
from featstore.index.recall import Margin, Recall, reaches
from featstore.index.truth import Truth

_FEWEST_TURNS = 5
_TURNS_SECONDS = 1.0
_SINGLES = 100
_AS_MANY = 3


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

    def rates_beside(self, other: Subject, truth: Truth) -> tuple[float, float]:
        """Return the queries a second of this index and of ``other``, batches of all queries timed in turns, one thread."""
        own, others = _in_turns([lambda: self.timed(truth), lambda: other.timed(truth)])
        return len(truth.queries) / own, len(truth.queries) / others

    def latency(self, truth: Truth) -> float:
        """Return the median time of a single query, in seconds."""
        count = min(_SINGLES, len(truth.queries))
        return float(np.median([self.timed(truth, slice(place, place + 1)) for place in range(count)]))

    def timed(self, truth: Truth, part: slice = slice(None)) -> float:
        """Return the seconds that one search of this ``part`` of the queries takes, in one thread.

        That is the work that a query costs. In several threads, which share caches, memory and whatever else runs,
        one and the same index differed by a third from one trial to the next.
        """
        start = time.perf_counter()
        self.index.search(truth.queries[part], truth.k, threads=1)
        return max(time.perf_counter() - start, 1e-9)


def tune(
    subject: Subject, candidate: Candidate, truth: Truth, goal: float, margin: Margin | None = None
) -> float | None:
    """Set the quickest effort whose recall reaches ``goal``; return its queries a second in one thread, None where none does.

    Its lower 95 % bound has to be there, and with a ``margin`` that on other queries has to be expected there.

    For each re-ranking depth the smallest main parameter that reaches the goal is found by bisection (recall
    grows with both); where three depths in a row need as much of it, deeper ones are not tried. These pairs are timed in
    turns, and the quickest is taken. Where none reaches the goal, the greatest effort is left set.
    """
    pairs: list[dict[str, float]] = []
    ceiling, as_many = max(1, len(candidate.steps)), 0
    for depth in candidate.depths or (None,):
        step = _smallest(ceiling, partial(_reached, subject, candidate, depth, truth, goal, margin))
        if step is None:
            # Before the first that reaches it: deeper. After it: as much as the last, which was asked and is dearer.
            as_many += bool(pairs)
        else:
            pairs.append(candidate.effort(step, depth))
            ceiling, as_many = step, 0
        if as_many == _AS_MANY or not ceiling:
            break
    if not pairs:
        subject.index.effort = candidate.greatest
        return None

    def timed(effort: dict[str, float]) -> float:
        subject.index.effort = effort
        return subject.timed(truth)

    seconds = _in_turns([partial(timed, effort) for effort in pairs])
    subject.index.effort = pairs[int(np.argmin(seconds))]
    return len(truth.queries) / min(seconds)


def _in_turns(timed: Sequence[Callable[[], float]]) -> list[float]:
    """Return the median seconds of each, asked in turns: other work, which comes and goes, then slows none alone.

    The best of several would be luck.
    """
    turns: list[list[float]] = []
    while len(turns) < _FEWEST_TURNS or sum(map(sum, turns)) < _TURNS_SECONDS:
        turns.append([one() for one in timed])
    return [float(median) for median in np.median(turns, axis=0)]


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
