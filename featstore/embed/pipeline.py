"""Keep the network busy: pictures are read and decoded ahead in threads, vectors written behind, in order.

Knows nothing of stores and files: how a row becomes a picture, what the engine is and where blocks go are given
to it, so that each part can be timed alone and replaced in a test.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from featstore.engines.base import Engine, Pending

NOT_FINITE = "not-finite"
"""Reason of a picture whose vector has NaN or infinity in it."""
NO_DIGEST = bytes(32)
_LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Loaded:
    """What became of one row: ``pixels`` (h, w, 3) uint8, or None with ``reason`` and ``message``; ``sha256`` of the bytes read."""

    pixels: NDArray[np.uint8] | None
    sha256: bytes = NO_DIGEST
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Batch:
    """The rows ``start`` to ``stop`` of one unit, whose ``target`` takes the result; a batch never crosses units."""

    target: Any
    start: int
    stop: int
    last: bool


@dataclass(frozen=True)
class Done:
    """A batch's result: ``vectors`` (n, d) of the rows that did not fail, ``sha256`` (stop - start, 32), failures (row, reason, message)."""

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
"""The stages of Timings that pass on the clock, one at a time: together they are the whole run."""


@dataclass
class Timings:
    """Seconds spent, by stage.

    On the clock, one at a time, so that they add up to the whole run (see CLOCK):
    ``restarts``: working processes that died, and the search for the pictures they died of. ``startup``: processes
    were started, libraries and the network loaded. ``planning``: the source was compared with the store, units were
    claimed and their journals read. ``verifying``: the engine was compared with plain torch. ``forward``: the network's
    result was waited for. ``copy``: pictures were laid side by side and handed to the engine. ``waiting``: the network
    had nothing to do because pictures were not ready. ``scheduling``: pictures were handed to the threads that read
    and decode. ``blocked``: the writer was waited for. ``others``: units that other processes hold were waited for.
    ``closing``: threads were ended, files closed, the store counted.

    Summed over threads: ``read``, ``decode``, ``write``. ``load_processor`` and ``processor``: seconds of the
    processors that reading and decoding, and the whole process while pictures were extracted, took. ``forwarded``:
    pictures that went through the network.
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
        """Add to some stages, from any thread; to those of CLOCK from one thread only."""
        with self.lock:
            for name, value in seconds.items():
                setattr(self, name, getattr(self, name) + value)

    @property
    def clock(self) -> float:
        """The sum of the stages of CLOCK."""
        return float(sum(getattr(self, name) for name in CLOCK))

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Add the time that passes to the stage ``name`` of CLOCK, less what is added to other stages of it meanwhile."""
        start, before = time.perf_counter(), self.clock
        try:
            yield
        finally:
            self.add(**{name: time.perf_counter() - start - (self.clock - before)})

    def to_dict(self) -> dict[str, float]:
        """Return the figures as JSON, seconds rounded to milliseconds."""
        names = [each.name for each in fields(self) if each.type == "float"]
        return {**{name: round(getattr(self, name), 3) for name in names}, "forwarded": self.forwarded}


def run(
    batches: Iterator[Batch | None],
    load: Callable[[Any, int], Loaded],
    engine: Engine,
    write: Callable[[Done], None],
    *,
    dtype: np.dtype[Any],
    threads: int,
    ahead: int,
    timings: Timings,
) -> None:
    """Drive all ``batches``: ``load(target, row)`` in threads, ``engine`` here, ``write`` in one thread, in order.

    At most ``ahead`` batches are held decoded, ``engine.in_flight`` in the network and 2 unwritten. None among the batches asks that all before it be
    written now. What ``load`` may fail at it returns; what it raises, and errors of engine and write, end the run.
    """
    window: deque[tuple[Batch, list[Future[Loaded]]]] = deque()
    forwarding: deque[Forwarding] = deque()
    writing: deque[Future[None]] = deque()
    loaders, writer = ThreadPoolExecutor(threads, "featstore-load"), ThreadPoolExecutor(1, "featstore-write")

    def timed_write(done: Done) -> None:
        start = time.perf_counter()
        write(done)
        timings.add(write=time.perf_counter() - start)

    def step() -> None:
        batch, futures = window.popleft()
        loaded = [awaited(future) for future in futures]
        while len(forwarding) >= engine.in_flight:
            finish()
        forwarding.append(begin(batch, loaded, engine, timings))

    def awaited(future: Future[Loaded]) -> Loaded:
        while not future.done():
            start, idle = time.perf_counter(), all(each.done() for each in forwarding)
            wait([future], _LOOK_SECONDS)
            # While batches are in the network it has something to do.
            timings.add(**{"waiting" if idle else "forward": time.perf_counter() - start})
        return future.result()

    def finish() -> None:
        done = forwarding.popleft().finish(engine.dimension, dtype, timings)
        written(2)
        writing.append(writer.submit(timed_write, done))

    def written(unfinished: int) -> None:
        """Wait until less than so many blocks are unwritten."""
        with timings.during("blocked"):
            while len(writing) >= unfinished:
                writing.popleft().result()

    def drain() -> None:
        while window:
            step()
        while forwarding:
            finish()
        written(1)

    def planned() -> Iterator[Batch | None]:
        while True:
            with timings.during("planning"):
                batch = next(batches, end)
            if batch is end:
                return
            yield batch

    end = Batch(None, 0, 0, True)
    processor = time.process_time()
    try:
        with timings.during("scheduling"):
            for batch in planned():
                if batch is None:
                    drain()
                    continue
                futures = [loaders.submit(load, batch.target, row) for row in range(batch.start, batch.stop)]
                window.append((batch, futures))
                if len(window) > ahead:
                    step()
            drain()
    finally:
        with timings.during("closing"):
            loaders.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True, cancel_futures=True)
        timings.add(processor=time.process_time() - processor)


@dataclass(frozen=True)
class Forwarding:
    """A batch in the network: ``pending`` features of all its rows, None where no row has a picture."""

    batch: Batch
    sha256: NDArray[np.uint8]
    ok: list[int]
    failures: list[tuple[int, str, str]]
    pending: Pending | None

    def done(self) -> bool:
        """Return whether the features are there."""
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
    """Send one batch into the network: ``loaded`` has a result for each of its rows."""
    sha256 = np.frombuffer(b"".join(row.sha256 for row in loaded), np.uint8).reshape(-1, 32)
    failures = [(batch.start + at, row.reason, row.message) for at, row in enumerate(loaded) if row.pixels is None]
    shown = [(at, row.pixels) for at, row in enumerate(loaded) if row.pixels is not None]
    if not shown:
        return Forwarding(batch, sha256, [], failures, None)
    # A failed picture leaves its place black: the batch's shape, and so the bits of the others, do not depend on it.
    start = time.perf_counter()
    pictures = np.zeros((len(loaded), *shown[0][1].shape), np.uint8)
    for at, pixels in shown:
        pictures[at] = pixels
    laid = time.perf_counter()
    pending = engine.submit(pictures)
    timings.add(copy=laid - start, forward=time.perf_counter() - laid)
    return Forwarding(batch, sha256, [at for at, _ in shown], failures, pending)


def forward(batch: Batch, loaded: list[Loaded], engine: Engine, dtype: np.dtype[Any], timings: Timings) -> Done:
    """Send one batch through the network and wait for its result."""
    return begin(batch, loaded, engine, timings).finish(engine.dimension, dtype, timings)
