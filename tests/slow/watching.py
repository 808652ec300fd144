"""Measure the peak of this process's anonymous memory while a ``with`` block runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def anonymous_bytes() -> int:
    """Return the anonymous memory of this process in bytes, as the kernel reports it (RssAnon)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("this kernel tells no RssAnon")


@dataclass
class Watched:
    """Samples of anonymous memory; ``peak``: the largest sample so far, in bytes."""

    peak: int = 0

    def sample(self) -> None:
        self.peak = max(self.peak, anonymous_bytes())


@contextlib.contextmanager
def anonymous_peak(every: float = 0.02) -> Iterator[Watched]:
    """Sample anonymous memory at the start, every ``every`` seconds in a thread, and at the end; yield a Watched."""
    watched, stop = Watched(), threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            watched.sample()

    watched.sample()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield watched
    finally:
        stop.set()
        thread.join()
        watched.sample()
