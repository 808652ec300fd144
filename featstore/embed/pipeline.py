"""The extraction pipeline: threads read and decode ahead, the network runs, and one thread writes vectors in order.

The pipeline does not depend on stores and files. The loading function, the engine and the writing function are
parameters, so each part can be timed or replaced separately.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featstore.engines.base import Engine, Pending

NOT_FINITE = "not-finite"
"""Failure reason of a picture whose vector contains NaN or infinity."""
NO_DIGEST = bytes(32)
_LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Loaded:
    """The result of loading one row.

    ``pixels``: (h, w, 3) uint8, or None with ``reason`` and ``message``. ``sha256``: digest of the bytes read.
    """

    pixels: NDArray[np.uint8] | None
    sha256: bytes = NO_DIGEST
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Batch:
    """The rows ``start`` to ``stop`` of one unit (group of rows). ``target``: the unit that these rows belong to, and
    to which the result is written. ``last``: whether this is the last batch of the unit.
    """

    target: Any
    start: int
    stop: int
    last: bool


@dataclass(frozen=True)
class Done:
    """The result of a batch.

    ``vectors`` (n, d): of the rows that did not fail; ``sha256`` (stop - start, 32): digests for all rows;
    ``failures``: (row, reason, message) of each failed row.
    """

    batch: Batch
    vectors: NDArray[Any]
    sha256: NDArray[np.uint8]
    failures: list[tuple[int, str, str]]


CLOCK: Final = (
    "restarts",
    "startup",
    "planning",
    "verifying",
    "forward",
    "copy",
    "waiting",
    "scheduling",
    "blocked",
    "others",
    "closing",
)
"""Stages of Timings that never overlap; their sum is the duration of the run."""


@dataclass
class Timings:
    """Seconds per stage.

    Stages that never overlap, so that their sum is the duration of the run (see CLOCK):

    * ``restarts``: handling of worker processes that died, with the search for the pictures that killed them
    * ``startup``: starting processes, loading libraries and the network
    * ``planning``: comparing the source with the store, claiming (locking) units, which are groups of pictures, and
      reading their journals, which keep the vectors of unfinished units
    * ``verifying``: comparing the engine with plain torch
    * ``forward``: waiting for the network's result
    * ``copy``: assembling batches and submitting them to the engine
    * ``waiting``: the network was idle because no pictures were ready
    * ``scheduling``: handing pictures to the reading and decoding threads
    * ``blocked``: waiting for the writer
    * ``others``: waiting for units that other processes hold
    * ``closing``: ending threads, closing files, counting the store

    Seconds summed over threads: ``read``, ``decode``, ``write``. CPU seconds: ``load_processor`` (reading and decoding)
    and ``processor`` (the whole process during extraction). ``forwarded``: number of pictures that went through the
    network.
    """

    restarts: float = 0.0
    startup: float = 0.0
    planning: float = 0.0
    verifying: float = 0.0
    forward: float = 0.0
    copy: float = 0.0
    waiting: float = 0.0
    scheduling: float = 0.0
    blocked: float = 0.0
    others: float = 0.0
    closing: float = 0.0
    read: float = 0.0
    decode: float = 0.0
    write: float = 0.0
    load_processor: float = 0.0
    processor: float = 0.0
    forwarded: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **seconds: float) -> None:
        """Add seconds to the named stages. Safe in any thread, but only one thread may add to the stages in CLOCK."""
        with self.lock:
            for name, value in seconds.items():
                setattr(self, name, getattr(self, name) + value)

    @property
    def clock(self) -> float:
        """Sum, in seconds, of the stages in CLOCK, which never overlap."""
        return float(sum(getattr(self, name) for name in CLOCK))

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Add the duration of the block to the stage ``name`` of CLOCK.

        Seconds that the block itself adds to other stages of CLOCK are not counted twice: they are subtracted.
        """
        start, before = time.perf_counter(), self.clock
        try:
            yield
        finally:
            self.add(**{name: time.perf_counter() - start - (self.clock - before)})

    def to_dict(self) -> dict[str, float]:
        """Return the timings as a dict for JSON, with seconds rounded to milliseconds."""
        names = [each.name for each in fields(self) if each.type == "float"]
        return {**{name: round(getattr(self, name), 3) for name in names}, "forwarded": self.forwarded}


Part = Callable[[], list[Loaded]]
"""Function that loads some consecutive rows of a batch."""


def one_by_one(load: Callable[[Any, int], Loaded]) -> Callable[[Batch], list[Part]]:
    """Return a function that splits a batch into parts of one row, each loaded by ``load(target, row)``."""

    def part(target: Any, row: int) -> list[Loaded]:
        return [load(target, row)]

    return lambda batch: [partial(part, batch.target, row) for row in range(batch.start, batch.stop)]


def run(
    batches: Iterator[Batch | None],
    parts: Callable[[Batch], list[Part]],
    engine: Engine,
    write: Callable[[Done], None],
    *,
    dtype: np.dtype[Any],
    threads: int,
    ahead: int,
    timings: Timings,
) -> None:
    """Process ``batches`` in order: load them in threads, run ``engine`` in this thread, ``write`` in one more thread.

    ``parts(batch)`` returns the functions that load the batch, in the order of its rows; it is also called in the order
    of ``batches``. At most ``ahead`` batches are decoded and waiting, ``engine.in_flight`` batches are in the network,
    and 2 are not yet written. If ``batches`` yields None, all previous batches are written before the next is started.
    Pictures that fail are part of the result; exceptions of the loading functions, of ``engine`` and of ``write`` end
    the run.
    """
    window: deque[tuple[Batch, list[Future[list[Loaded]]]]] = deque()
    forwarding: deque[Forwarding] = deque()
    writing: deque[Future[None]] = deque()
    loaders, writer = ThreadPoolExecutor(threads, "featstore-load"), ThreadPoolExecutor(1, "featstore-write")

    def timed_write(done: Done) -> None:
        start = time.perf_counter()
        write(done)
        timings.add(write=time.perf_counter() - start)

    def step() -> None:
        batch, futures = window.popleft()
        loaded = [row for future in futures for row in awaited(future)]
        while len(forwarding) >= engine.in_flight:
            finish()
        forwarding.append(begin(batch, loaded, engine, timings))

    def awaited(future: Future[list[Loaded]]) -> list[Loaded]:
        while not future.done():
            start, idle = time.perf_counter(), all(each.done() for each in forwarding)
            wait([future], _LOOK_SECONDS)
            # Waiting for pictures counts as "waiting" if the network is idle, otherwise as "forward".
            timings.add(**{"waiting" if idle else "forward": time.perf_counter() - start})
        return future.result()

    def finish() -> None:
        done = forwarding.popleft().finish(engine.dimension, dtype, timings)
        written(2)
        writing.append(writer.submit(timed_write, done))

    def written(unfinished: int) -> None:
        """Wait until fewer than ``unfinished`` batches are still to be written."""
        with timings.during("blocked"):
            while len(writing) >= unfinished:
                writing.popleft().result()

    def drain() -> None:
        while window:
            step()
        while forwarding:
            finish()
        written(1)

    processor = time.process_time()
    try:
        with timings.during("scheduling"):
            for batch in _planned(batches, timings):
                if batch is None:
                    drain()
                    continue
                futures = [loaders.submit(part) for part in parts(batch)]
                window.append((batch, futures))
                if len(window) > ahead:
                    step()
            drain()
    finally:
        with timings.during("closing"):
            loaders.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True, cancel_futures=True)
        timings.add(processor=time.process_time() - processor)


def _planned(batches: Iterator[Batch | None], timings: Timings) -> Iterator[Batch | None]:
    """Yield the batches. The time until each batch is available counts as the stage "planning"."""
    end = Batch(None, 0, 0, True)
    while True:
        with timings.during("planning"):
            batch = next(batches, end)
        if batch is end:
            return
        yield batch


@dataclass(frozen=True)
class Forwarding:
    """A batch that the network is processing.

    ``pending``: the features of all rows of the batch, available later; None if no picture of the batch was readable.
    """

    batch: Batch
    sha256: NDArray[np.uint8]
    ok: list[int]
    failures: list[tuple[int, str, str]]
    pending: Pending | None

    def done(self) -> bool:
        """Return whether the features are ready."""
        return self.pending is None or self.pending.done()

    def finish(self, dimension: int, dtype: np.dtype[Any], timings: Timings) -> Done:
        """Wait for the features and return the batch's result."""
        if self.pending is None:
            return Done(self.batch, np.empty((0, dimension), dtype), self.sha256, self.failures)
        start = time.perf_counter()
        with np.errstate(over="ignore"):
            vectors = self.pending.result()[self.ok].astype(dtype, copy=False)
        timings.add(forward=time.perf_counter() - start, forwarded=len(self.ok))
        finite = np.isfinite(vectors).all(axis=1)
        if finite.all():
            return Done(self.batch, vectors, self.sha256, self.failures)
        message = f"its vector has a value that is not finite in {dtype.name}"
        bad = [(self.batch.start + self.ok[at], NOT_FINITE, message) for at in np.flatnonzero(~finite).tolist()]
        return Done(self.batch, vectors[finite], self.sha256, sorted([*self.failures, *bad]))


def begin(batch: Batch, loaded: list[Loaded], engine: Engine, timings: Timings) -> Forwarding:
    """Submit one batch to the network; ``loaded``: the pixels or failure of each row of the batch."""
    sha256 = np.frombuffer(b"".join(row.sha256 for row in loaded), np.uint8).reshape(-1, 32)
    failures = [(batch.start + at, row.reason, row.message) for at, row in enumerate(loaded) if row.pixels is None]
    shown = [(at, row.pixels) for at, row in enumerate(loaded) if row.pixels is not None]
    if not shown:
        return Forwarding(batch, sha256, [], failures, None)
    # Use a black picture in place of a failed one. In a smaller batch, the last bits of the other features could
    # differ.
    start = time.perf_counter()
    pictures = np.zeros((len(loaded), *shown[0][1].shape), np.uint8)
    for at, pixels in shown:
        pictures[at] = pixels
    laid = time.perf_counter()
    pending = engine.submit(pictures)
    timings.add(copy=laid - start, forward=time.perf_counter() - laid)
    return Forwarding(batch, sha256, [at for at, _ in shown], failures, pending)


def forward(batch: Batch, loaded: list[Loaded], engine: Engine, dtype: np.dtype[Any], timings: Timings) -> Done:
    """Run one batch through the network and return its result."""
    return begin(batch, loaded, engine, timings).finish(engine.dimension, dtype, timings)
