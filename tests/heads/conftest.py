from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run BLAS in one thread: the test problems are small, and with more threads than free cores the threads wait."""
    with threadpool_limits(1):
        yield
