"""Limit BLAS to one thread while heads are fitted, also if several threads of a process fit heads at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_info, threadpool_limits


class _OneThread:
    """The limit of BLAS to one thread, which all fits of the process share.

    The number of threads of BLAS is a setting of the process. If each fit set and restored it by itself, a fit could
    store the limit of another fit as the setting to restore. So the first fit that enters sets the limit, and the last
    fit that leaves restores the setting from before.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._count = 0
        self._threads = 1
        self._limits: threadpool_limits | None = None

    def enter(self) -> None:
        """Limit BLAS to one thread, unless another fit did so."""
        with self._lock:
            if not self._count:
                self._threads = _threads_now()
                self._limits = threadpool_limits(1, user_api="blas")
            self._count += 1
        self._inside.depth = self._depth + 1

    def leave(self) -> None:
        """Restore the number of threads if no other fit needs the limit."""
        self._inside.depth = self._depth - 1
        with self._lock:
            self._count -= 1
            if not self._count and self._limits is not None:
                self._limits.restore_original_limits()
                self._limits = None

    @property
    def _depth(self) -> int:
        return int(getattr(self._inside, "depth", 0))

    def threads(self) -> int:
        """Return the number of threads of BLAS without the limits of fits in other threads."""
        if self._depth:
            return 1
        with self._lock:
            return self._threads if self._count else _threads_now()


_BLAS = _OneThread()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Context manager that limits BLAS to one thread; it may be nested, and entered by several threads at once."""
    _BLAS.enter()
    try:
        yield
    finally:
        _BLAS.leave()


def blas_threads() -> int:
    """Return the number of threads that BLAS uses in this thread of the process: 1 inside one_blas_thread."""
    return _BLAS.threads()


def _threads_now() -> int:
    return max((info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"), default=1)
