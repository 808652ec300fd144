"""Limit BLAS to one thread, also if several threads of a process fit heads at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from threadpoolctl import threadpool_limits

_LOCK = threading.Lock()
_limiting: list[int] = []
"""The thread that limits BLAS now, once for each of its nested limits; empty if no thread limits BLAS."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Context manager that limits BLAS to one thread, unless another thread of the process limits BLAS already.

    The number of threads of BLAS is a setting of the process. Two overlapping limits of two threads would restore the
    setting in the wrong order: the second limit would restore the one thread of the first. So only one thread of the
    process sets and restores the limit. When it leaves, BLAS has its threads again for fits in other threads too, which
    costs those fits time.
    """
    own = threading.get_ident()
    with ExitStack() as limits:
        with _LOCK:
            mine = not _limiting or _limiting[-1] == own
            if mine:
                _limiting.append(own)
                limits.enter_context(threadpool_limits(1, user_api="blas"))
        try:
            yield
        finally:
            if mine:
                with _LOCK:
                    limits.close()
                    _limiting.pop()
