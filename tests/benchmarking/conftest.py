from __future__ import annotations

import pytest

from featstore import guard
from featstore.benchmarking import contenders, rounds, speed, storing


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure here: that contenders get processes of their own is tested once, and they take seconds to start."""

    def apart(function, arguments, what):
        return guard.function_of(function)(**arguments)

    for module in (rounds, speed, storing):
        monkeypatch.setattr(module, "apart", apart)
    # It would hold for all tests of this process.
    monkeypatch.setattr(contenders, "keep_memory", lambda: False)
