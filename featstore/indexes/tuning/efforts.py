"""Find the fastest search parameters with which an index reaches a required recall, and measure search times."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from featstore.indexes.blocks import Floats
from featstore.indexes.files import faiss_io
from featstore.indexes.recall import Recall, aims, reaches
from featstore.indexes.tuning.ladder import Candidate
from featstore.indexes.tuning.truth import Truth

_FEWEST_TURNS = 3
_TURNS_SECONDS = 1.0
_SINGLES, _FEWEST_SINGLES, _SINGLES_SECONDS = 100, 5, 2.0
_AS_MANY = 8
_MEASURED = 8
_TIMED = 300


@dataclass(frozen=True)
class Subject:
    """An index that is being tuned.

    ``rows`` (n,): the row number at each position; ``threads``: number of threads of the searches that measure recall.
    """

    index: faiss_io.VectorIndex
    rows: NDArray[np.int64]
    threads: int | None = None

    def recall(self, truth: Truth) -> Recall:
        """Return the recall of the queries of ``truth`` with the index's present search parameters."""
        if self.index.exact:
            return Recall(1.0, 1.0, 1.0, truth.k, 0, "exact")
        _, positions = self.index.search(truth.queries, truth.k, threads=self.threads)
        return truth.recall(np.where(positions >= 0, self.rows[positions], -1))

    def rates_beside(self, other: Subject, truth: Truth) -> tuple[float, float]:
        """Return the queries per second of this index and of ``other``, timed alternately, in one thread."""
        own, others = _in_turns([lambda: self.timed(truth), lambda: other.timed(truth)])
        return len(truth.queries) / own, len(truth.queries) / others

    def latency(self, queries: Floats, k: int) -> float:
        """Return the median seconds of a search with one of the prepared ``queries`` (q, d), in one thread."""
        return median_seconds(queries, lambda query: self.index.search(query, k, threads=1))

    def timed(self, truth: Truth) -> float:
        """Return the seconds that one search with all queries of ``truth`` takes in one thread.

        Timings in several threads, which share caches and memory with other programs, varied by a third between trials
        of the same index.
        """
        start = time.perf_counter()
        self.index.search(truth.queries, truth.k, threads=1)
        return max(time.perf_counter() - start, 1e-9)


def median_seconds(queries: Floats, search: Callable[[Floats], object]) -> float:
    """Return the median seconds of ``search`` for a single query (1, d).

    Up to 100 of ``queries`` (q, d) are timed, for about 2 s. The first search is not counted, because it also reads a
    memory-mapped index from disk.
    """
    search(queries[:1])
    seconds: list[float] = []
    for place in range(min(_SINGLES, len(queries))):
        if len(seconds) >= _FEWEST_SINGLES and sum(seconds) > _SINGLES_SECONDS:
            break
        start = time.perf_counter()
        search(queries[place : place + 1])
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def tune(subject: Subject, candidate: Candidate, truth: Truth, goal: float, fresh: float = 1.0) -> float | None:
    """Set the fastest search parameters whose recall reaches ``goal``; return the queries per second in one thread.

    The lower 95 % bound of the recall has to reach ``goal``. It is computed for a test with ``fresh`` times the number
    of queries of ``truth``. If no parameters reach ``goal``, the largest parameters are set, and None is returned.
    """
    pairs = _Efforts(subject, candidate, truth).least(lambda recall: reaches(recall, goal, fresh))
    if not pairs:
        subject.index.effort = candidate.greatest
        return None
    subject.index.effort = min(pairs, key=_Cost(subject, truth, pairs)) if len(pairs) > 1 else pairs[0]
    return len(truth.queries) / _in_turns([lambda: subject.timed(truth)])[0]


def descent(
    subject: Subject, candidate: Candidate, truth: Truth, goal: float, fresh: float
) -> Iterator[dict[str, float]]:
    """Yield search parameters, from high to low recall; the caller tests them on other queries.

    For each reachable target recall (see ``aims``), the fastest parameters are yielded, without duplicates.
    They are searched for lazily, because the search is slow and the caller usually stops early. Only the queries of
    ``truth`` are used here. ``fresh``: number of the caller's test queries divided by the number of queries of
    ``truth``.
    """
    efforts = _Efforts(subject, candidate, truth)
    near = efforts.least(lambda recall: reaches(recall, goal, fresh))
    subject.index.effort = near[0] if near else candidate.greatest
    cost: _Cost | None = None
    told: list[dict[str, float]] = []
    for aim in aims(subject.recall(truth), goal, fresh):
        if not (pairs := efforts.least(partial(_at_least, aim))):
            continue
        cost = cost or _Cost(subject, truth.part(0, _TIMED), near or pairs)
        if (effort := min(pairs, key=cost)) not in told:
            told.append(effort)
            yield effort


class _Cost:
    """Linear model of the seconds of a search as a function of its search parameters (non-negative least squares).

    Lists are scanned one after the other, and then vectors are re-ranked one after the other, so the time grows
    linearly with nprobe and k_factor. The model is fitted to the times of some of ``efforts`` (sets of parameters),
    because single times of similar parameters are too noisy to compare.
    """

    def __init__(self, subject: Subject, truth: Truth, efforts: Sequence[dict[str, float]]) -> None:
        places = np.unique(np.linspace(0, len(efforts) - 1, _MEASURED).round().astype(int))

        def timed(effort: dict[str, float]) -> float:
            subject.index.effort = effort
            return subject.timed(truth)

        seconds = np.array(_in_turns([partial(timed, efforts[place]) for place in places]))
        rows = np.array([[1.0, *efforts[place].values()] for place in places])
        # Minimise relative errors, because fast searches have to be distinguished from each other.
        self._weights: NDArray[np.float64] = nnls(rows / seconds[:, None], np.ones(len(rows)))[0]

    def __call__(self, effort: dict[str, float]) -> float:
        return float(self._weights @ [1.0, *effort.values()])


def _at_least(aim: float, recall: Recall) -> bool:
    return recall.value is not None and recall.value >= aim


class _Efforts:
    """Cache of the recall by search parameters: a re-ranking depth (k_factor), and a step, which is the position of
    nprobe or efSearch in its list of values."""

    def __init__(self, subject: Subject, candidate: Candidate, truth: Truth) -> None:
        self._subject, self._candidate, self._truth = subject, candidate, truth
        self._found: dict[tuple[float | None, int], Recall] = {}

    def _recall(self, depth: float | None, step: int) -> Recall:
        if (depth, step) not in self._found:
            self._subject.index.effort = self._candidate.effort(step, depth)
            self._found[depth, step] = self._subject.recall(self._truth)
        return self._found[depth, step]

    def least(self, holds: Callable[[Recall], bool]) -> list[dict[str, float]]:
        """Return the smallest search parameters whose recall satisfies the condition ``holds``.

        The parameters are a re-ranking depth and a step (position of nprobe or efSearch in its list of values). In the
        result, depths increase and steps decrease, so that reducing one value requires increasing the other. The search
        stops after several depths that do not allow a smaller step.
        """
        depths, top = self._candidate.depths or (None,), max(1, len(self._candidate.steps)) - 1
        first = _smallest(len(depths), lambda place: holds(self._recall(depths[place], top)))
        if first is None:
            return []
        pairs: list[dict[str, float]] = []
        step, as_many = top + 1, 0
        for depth in depths[first:]:
            # ``step`` is the position of a value of nprobe or efSearch in its list. The largest value is known to
            # satisfy the condition ``holds`` at the first re-ranking depth. A larger depth is useful only if it allows
            # a smaller step.
            if step > top or holds(self._recall(depth, step - 1)):
                step = self._smallest_step(holds, depth, step - 1)
                pairs.append(self._candidate.effort(step, depth))
                as_many = 0
            else:
                as_many += 1
            if as_many == _AS_MANY or not step:
                break
        return pairs

    def _smallest_step(self, holds: Callable[[Recall], bool], depth: float | None, known: int) -> int:
        """Return the position of the smallest nprobe or efSearch whose recall satisfies the condition ``holds``.

        ``depth``: re-ranking depth (k_factor). ``known``: position of a value that satisfies the condition.
        """
        found = _smallest(known, lambda place: holds(self._recall(depth, place)))
        return known if found is None else found


def _in_turns(timed: Sequence[Callable[[], float]]) -> list[float]:
    """Call the functions ``timed`` alternately; return the median of the seconds that each of them returns.

    Alternating calls are affected equally by other load on the machine. The median is used because the minimum depends
    on chance.
    """
    turns: list[list[float]] = []
    while len(turns) < _FEWEST_TURNS or sum(map(sum, turns)) < _TURNS_SECONDS:
        turns.append([one() for one in timed])
    return [float(median) for median in np.median(turns, axis=0)]


def _smallest(count: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest number below ``count`` for which ``holds`` is true, by bisection; None if there is none.

    ``holds`` must be true for all numbers above that number too.
    """
    place = bisect_left(range(count), True, key=holds)
    return place if place < count else None
