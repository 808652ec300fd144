"""One pass over the rows for many problems: objectives, gradients and curvatures, on all cores.

BLAS is slow for matrix products with few columns: it cannot divide such a product among threads, and blocks larger than
a core's cache are read twice from memory. Therefore BLAS is limited to one thread, and each worker thread processes
whole segments in small blocks, which stay in the cache between the product for decision values and the product for
gradients. The assignment of segments to workers is fixed, so the same number of workers gives bit-identical results on
one instruction set.

Letters in shapes: p problems, c columns (of decision values) per problem, m rows, r dimensions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from featstore.heads.solvers.losses import Loss
from featstore.heads.solvers.rows import Segment, TrainingRows
from featstore.heads.solvers.threads import one_blas_thread

_BLOCK: Final = 1 << 20
"""Block size in values (4 MiB in float32: 512 rows of 2048), so small that a block stays in the cache."""
_SMALL_PRODUCT: Final = 1_000_000
"""If a matrix product has at most this many multiplications, OpenBLAS does not copy ("pack") the matrices first. This
is much faster for matrices with few rows or columns."""
_PIECE_ROWS: Final = (32, 16, 8)
_PIECE_DIMENSIONS: Final = 64
"""A product with few columns is cut into pieces of this many rows or dimensions, each below _SMALL_PRODUCT. One numpy
call multiplies all pieces: with one call for each piece, the workers would mostly wait for the GIL."""
_WORTH_THREADS: Final = 1 << 22
"""Number of values (rows times dimensions) below which one thread is faster than several."""
_LEAST_CURVATURE: Final = 1e-3
"""Lower bound of the summed curvature of the loss: keeps the step of the intercept finite for well separated rows."""


@dataclass(frozen=True)
class Problem:
    """One problem to solve: a value of ``C`` and a held-out fold (None: all rows are trained on).

    ``column``: for rows with label sets, the number of the label that the problem predicts; otherwise None.
    """

    C: float
    fold: int | None
    column: int | None = None


@dataclass(frozen=True)
class Evaluation:
    """Result of a pass over the rows for p problems with c columns and r dimensions.

    Objectives (p,), gradients (p, c, r + 1), and C times the summed curvature (p,).
    """

    values: NDArray[np.float64]
    gradients: NDArray[np.float64]
    curvatures: NDArray[np.float64]


class Selection:
    """The weights, stacked into one matrix, of the problems to evaluate on the rows of one fold.

    ``chosen``: numbers of these problems; ``points``: (p, c, r + 1), the weights of all problems, the intercept last.
    ``problems``: all problems; needed for rows with label sets.
    """

    def __init__(
        self, chosen: list[int], points: NDArray[Any], dtype: np.dtype[Any], problems: Sequence[Problem] = ()
    ) -> None:
        self.chosen = chosen
        self._labels = [column for i in chosen if problems and (column := problems[i].column) is not None]
        self.count = points.shape[1]
        flat = points[chosen].swapaxes(0, 1).reshape(-1, points.shape[2])
        self.weights = np.ascontiguousarray(flat[:, :-1], dtype)
        self.intercept = flat[:, -1:].astype(dtype)

    @property
    def columns(self) -> int:
        """Number of decision columns of all chosen problems together."""
        return len(self.weights)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the stacked weights with intercepts: (columns, dimensions + 1)."""
        return self.columns, self.weights.shape[1] + 1

    def codes_of(self, codes: NDArray[Any]) -> NDArray[Any]:
        """Return the class numbers (m,) unchanged; of label sets (m, k), the column of each chosen problem, (p, m)."""
        return codes if codes.ndim == 1 else codes[:, self._labels].T

    def decide(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return decision values of the m rows ``values`` (m, r): (c, p, m), c columns for each of the p chosen problems."""
        rows, dimension = values.shape
        out = np.empty((self.columns, rows), values.dtype)
        piece = self._piece_rows
        cut = rows // piece * piece if piece else 0
        if cut:
            pieces = values[:cut].reshape(-1, piece, dimension).swapaxes(1, 2)
            np.matmul(self.weights, pieces, out=out[:, :cut].reshape(self.columns, -1, piece).swapaxes(0, 1))
        if cut < rows:
            np.matmul(self.weights, values[cut:].T, out=out[:, cut:])
        out += self.intercept
        return out.reshape(self.count, len(self.chosen), rows)

    def pull(self, derivative: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
        """Return gradients (columns, r) from the ``derivative`` (c, p, m) of the loss on the m rows ``values`` (m, r)."""
        rows, dimension = values.shape
        flat = derivative.reshape(self.columns, rows)
        out = np.empty((self.columns, dimension), values.dtype)
        piece = _PIECE_DIMENSIONS
        cut = dimension // piece * piece if piece * rows * self.columns <= _SMALL_PRODUCT else 0
        if cut:
            pieces = values[:, :cut].reshape(rows, -1, piece).swapaxes(0, 1)
            np.matmul(flat, pieces, out=out[:, :cut].reshape(self.columns, -1, piece).swapaxes(0, 1))
        if cut < dimension:
            np.matmul(flat, values[:, cut:], out=out[:, cut:])
        return out

    def block_rows(self) -> int:
        """Return the number of rows in a block that stays in the CPU cache."""
        rows: int = _BLOCK // max(self.weights.shape[1], self.columns)
        return max(64, rows // 2 if self._piece_rows else rows)

    @property
    def _piece_rows(self) -> int:
        """Number of rows in each piece of a matrix product; 0 if the product is computed as a whole."""
        size = self.columns * self.weights.shape[1]
        return next((rows for rows in _PIECE_ROWS if self.columns > 1 and rows * size <= _SMALL_PRODUCT), 0)


class Workers:
    """Worker threads with fixed assignment: jobs for worker i run on thread i, one after another."""

    def __init__(self, executors: list[ThreadPoolExecutor]) -> None:
        self._executors = executors

    @property
    def count(self) -> int:
        """Number of worker threads; 1 if jobs run in the caller's thread."""
        return max(1, len(self._executors))

    def run(self, jobs: Iterator[tuple[int, Callable[[], None]]]) -> None:
        """Run each job on its worker; the queue is bounded, so that waiting jobs do not fill the memory."""
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
def few_threads(rows: int, dimension: int, user_api: str | None = "blas") -> Iterator[None]:
    """Context manager that limits BLAS to one thread for small data; with ``user_api`` None, OpenMP too.

    BLAS threads busy-wait between products. With many short products, this waiting costs more time than the threads
    save. On cores that are shared with other programs, the waiting costs ten times as much as on free cores.
    """
    with ExitStack() as stack:
        if rows * dimension < _WORTH_THREADS:
            stack.enter_context(one_blas_thread())
            if user_api is None:
                # OpenMP keeps its number of threads for each thread, so overlapping fits do not disturb each other.
                stack.enter_context(threadpool_limits(1, user_api="openmp"))
        yield


@contextmanager
def workers_for(rows: TrainingRows) -> Iterator[Workers]:
    """Context manager for Workers: as many threads as BLAS would use, while BLAS itself is limited to one thread.

    For small data there are no threads: jobs run in the caller's thread.
    """
    from threadpoolctl import threadpool_info

    threads = max((info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"), default=1)
    with ExitStack() as stack:
        stack.enter_context(one_blas_thread())
        executors = []
        if threads > 1 and len(rows.labels.codes) * rows.dimension >= _WORTH_THREADS:
            executors = [stack.enter_context(ThreadPoolExecutor(1, "featstore-head")) for _ in range(threads)]
        yield Workers(executors)


@dataclass
class _Sums:
    """Sums over the rows of one worker: losses (p,) and curvatures (p,) of p problems, and one gradient per fold."""

    losses: NDArray[np.float64]
    bends: NDArray[np.float64]
    gradients: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    def add(self, segment: Segment, selection: Selection, loss: Loss) -> None:
        """Add the losses, curvatures and gradients of a segment's rows to the sums, block by block, in float64."""
        gradient = self.gradients.setdefault(segment.fold, np.zeros(selection.shape))
        step = selection.block_rows()
        for start in range(0, len(segment.codes), step):
            part = slice(start, start + step)
            values = segment.read(part)
            weights = None if segment.weights is None else segment.weights[part]
            codes = selection.codes_of(segment.codes[part])
            losses, bends, derivative = loss.evaluate(selection.decide(values), codes, weights)
            self.losses[selection.chosen] += losses
            self.bends[selection.chosen] += bends
            gradient[:, :-1] += selection.pull(derivative, values)
            gradient[:, -1] += derivative.reshape(selection.columns, -1).sum(axis=1, dtype=np.float64)


def evaluate(
    rows: TrainingRows,
    loss: Loss,
    problems: list[Problem],
    points: NDArray[Any],
    workers: Workers | None = None,
) -> Evaluation:
    """Evaluate every problem at its ``points`` (p, c, r + 1) in one pass over the rows."""
    workers = workers or Workers([])
    sums = [_Sums(np.zeros(len(problems)), np.zeros(len(problems))) for _ in range(workers.count)]
    selections: dict[int, Selection] = {}
    loads = [0] * workers.count

    def jobs() -> Iterator[tuple[int, Callable[[], None]]]:
        for segment in rows.segments():
            if segment.fold not in selections:
                chosen = [i for i, problem in enumerate(problems) if problem.fold != segment.fold]
                selections[segment.fold] = Selection(chosen, points, rows.dtype, problems)
            selection = selections[segment.fold]
            if selection.chosen:
                worker = loads.index(min(loads))
                loads[worker] += len(segment.codes) * selection.columns
                yield worker, _job(sums[worker], segment, selection, loss)

    workers.run(jobs())
    gradients = np.zeros(points.shape)
    count = points.shape[1]
    for total in sums:
        for fold, gradient in total.gradients.items():
            chosen = selections[fold].chosen
            gradients[chosen] += gradient.reshape(count, len(chosen), -1).swapaxes(0, 1)
    strength = np.array([problem.C for problem in problems])
    gradients *= strength[:, None, None]
    weights = points[:, :, :-1].astype(np.float64)
    gradients[:, :, :-1] += weights
    losses = np.sum([total.losses for total in sums], axis=0)
    bends = np.sum([total.bends for total in sums], axis=0)
    values = 0.5 * np.einsum("pcr,pcr->p", weights, weights) + strength * losses
    return Evaluation(values, gradients, strength * np.maximum(bends, _LEAST_CURVATURE))


def _job(sums: _Sums, segment: Segment, selection: Selection, loss: Loss) -> Callable[[], None]:
    return lambda: sums.add(segment, selection, loss)
