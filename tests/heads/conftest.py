from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run BLAS in one thread: the problems are small, and more threads than free cores would wait for each other."""
    with threadpool_limits(1):
        yield
