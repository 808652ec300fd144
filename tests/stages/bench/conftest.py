from __future__ import annotations

import pytest

from featstore.processes import sandbox
from featstore.stages.bench import contenders, rounds, speed, storing


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure here: that contenders get processes of their own is tested once, and they take seconds to start."""

    def apart(function, arguments, what):
        return sandbox.function_of(function)(**arguments)

    for module in (rounds, speed, storing):
        monkeypatch.setattr(module, "apart", apart)
    # It would hold for all tests of this process.
    monkeypatch.setattr(contenders, "keep_memory", lambda: False)
