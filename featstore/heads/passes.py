"""One pass over the rows for many problems: objectives, gradients and curvatures, on all cores.

BLAS is slow at products with few columns: threads cannot share them, and blocks larger than a core's cache are
read twice from memory. So each worker thread takes whole segments, with BLAS kept to one thread, and goes through
them in blocks that stay in its cache between the product that gives decisions and the one that gives gradients.
Which worker takes which segment is fixed, so that the same number of workers gives the same bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.heads.losses import Loss
from featstore.heads.rows import Segment, TrainingRows

_BLOCK: Final = 1 << 19
"""Values of one block (2 MiB in float32: 256 rows of 2048)."""
_SMALL_PRODUCT: Final = 1_000_000
"""Multiplications up to which OpenBLAS multiplies matrices without packing them first, much faster when one is thin."""
_THIN: Final = 12
"""Columns up to which blocks are made small enough for that."""
_WORTH_THREADS: Final = 1 << 22
"""Values (rows times dimensions) below which threads cost more than they bring."""
_LEAST_CURVATURE: Final = 1e-3
"""Of the summed loss, so that the step of the intercept stays finite when every row is far on its side."""


@dataclass(frozen=True)
class Problem:
    """One cell of the grid: regularisation ``C``, and the fold that is held out (None: none)."""

    C: float
    fold: int | None


@dataclass(frozen=True)
class Evaluation:
    """At some points: objectives (p,), gradients (r + 1, p, c), and C times the summed curvature of the loss (p,)."""

    values: NDArray[np.float64]
    gradients: NDArray[np.float64]
    curvatures: NDArray[np.float64]


class Selection:
    """The problems that read the rows of one fold (numbers ``chosen``), their weights side by side."""

    def __init__(self, chosen: list[int], points: NDArray[np.float64], dtype: np.dtype[Any]) -> None:
        self.chosen = chosen
        self.count = points.shape[2]
        flat = points[:, chosen].reshape(points.shape[0], len(chosen) * self.count)
        self.weights = flat[:-1].astype(dtype)
        self.intercept = flat[-1].astype(dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(dimensions + 1, columns of all problems)."""
        return self.weights.shape[0] + 1, self.weights.shape[1]

    def decide(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return decision values (m, p, c) of the rows ``values`` (m, r)."""
        out = values @ self.weights
        out += self.intercept
        return np.asarray(out).reshape(len(values), len(self.chosen), self.count)

    def block_rows(self) -> int:
        """Return how many rows to take at once."""
        dimension, columns = self.shape
        if columns <= _THIN:
            return max(32, _SMALL_PRODUCT // (dimension * columns))
        return max(64, _BLOCK // dimension)


class Workers:
    """Threads that keep their order: what is given to worker i runs there, one after another."""

    def __init__(self, executors: list[ThreadPoolExecutor]) -> None:
        self._executors = executors

    @property
    def count(self) -> int:
        """How many accumulators are needed."""
        return max(1, len(self._executors))

    def run(self, jobs: Iterator[tuple[int, Callable[[], None]]]) -> None:
        """Run each job on its worker; few wait at any time, so that streamed rows do not pile up."""
        waiting: deque[Future[None]] = deque()
        for worker, job in jobs:
            if not self._executors:
                job()
                continue
            waiting.append(self._executors[worker].submit(job))
            if len(waiting) > 2 * len(self._executors):
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()


@contextmanager
def few_threads(rows: int, dimension: int) -> Iterator[None]:
    """Keep BLAS to one thread where data is small: its threads wait for each other by spinning.

    Between many short products that costs more than it brings, and on cores that others use as well ten times more.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas") if rows * dimension < _WORTH_THREADS else nullcontext():
        yield


@contextmanager
def workers_for(rows: TrainingRows) -> Iterator[Workers]:
    """Yield workers for passes over ``rows``: one a BLAS thread, with BLAS kept to one; none for small data."""
    from threadpoolctl import threadpool_info, threadpool_limits

    threads = max((info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"), default=1)
    with ExitStack() as stack:
        stack.enter_context(threadpool_limits(1, user_api="blas"))
        executors = []
        if threads > 1 and len(rows.labels.codes) * rows.dimension >= _WORTH_THREADS:
            executors = [stack.enter_context(ThreadPoolExecutor(1, "featstore-head")) for _ in range(threads)]
        yield Workers(executors)


@dataclass
class _Sums:
    """What one worker has added up: losses and curvatures (p,), gradients (r + 1, columns) by fold."""

    losses: NDArray[np.float64]
    bends: NDArray[np.float64]
    gradients: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, segment: Segment, selection: Selection, loss: Loss) -> None:
        """Add a segment, block by block, in float64."""
        gradient = self.gradients.setdefault(segment.fold, np.zeros(selection.shape))
        step = selection.block_rows()
        for start in range(0, len(segment.values), step):
            part = slice(start, start + step)
            values = segment.values[part]
            weights = None if segment.weights is None else segment.weights[part]
            losses, bends, derivative = loss.evaluate(selection.decide(values), segment.codes[part], weights)
            self.losses[selection.chosen] += losses
            self.bends[selection.chosen] += bends
            flat = derivative.reshape(len(values), -1)
            gradient[:-1] += values.T @ flat
            gradient[-1] += flat.sum(axis=0, dtype=np.float64)


def evaluate(
    rows: TrainingRows,
    loss: Loss,
    problems: list[Problem],
    points: NDArray[np.float64],
    workers: Workers | None = None,
) -> Evaluation:
    """Evaluate every problem at its ``points`` (r + 1, p, c) in one pass over the rows."""
    workers = workers or Workers([])
    sums = [_Sums(np.zeros(len(problems)), np.zeros(len(problems))) for _ in range(workers.count)]
    selections: dict[int, Selection] = {}

    def jobs() -> Iterator[tuple[int, Callable[[], None]]]:
        for number, segment in enumerate(rows.segments()):
            if segment.fold not in selections:
                chosen = [i for i, problem in enumerate(problems) if problem.fold != segment.fold]
                selections[segment.fold] = Selection(chosen, points, rows.dtype)
            selection, worker = selections[segment.fold], number % workers.count
            if selection.chosen:
                yield worker, _job(sums[worker], segment, selection, loss)

    workers.run(jobs())
    gradients = np.zeros_like(points)
    for total in sums:
        for fold, gradient in total.gradients.items():
            selection = selections[fold]
            gradients[:, selection.chosen] += gradient.reshape(len(points), len(selection.chosen), selection.count)
    strength = np.array([problem.C for problem in problems])
    gradients *= strength[:, None]
    gradients[:-1] += points[:-1]
    losses = np.sum([total.losses for total in sums], axis=0)
    bends = np.sum([total.bends for total in sums], axis=0)
    values = 0.5 * np.einsum("rpc,rpc->p", points[:-1], points[:-1]) + strength * losses
    return Evaluation(values, gradients, strength * np.maximum(bends, _LEAST_CURVATURE))


def _job(sums: _Sums, segment: Segment, selection: Selection, loss: Loss) -> Callable[[], None]:
    return lambda: sums.add(segment, selection, loss)
