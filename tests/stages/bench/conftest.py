from __future__ import annotations

import pytest

from featstore.processes import sandbox
from featstore.stages.bench import contenders, rounds, speed, storing


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure in this process, because processes take seconds to start; one other test covers separate processes."""

    def apart(function, arguments, what):
        return sandbox.function_of(function)(**arguments)

    for module in (rounds, speed, storing):
        monkeypatch.setattr(module, "apart", apart)
    # The setting would apply to all tests of this process.
    monkeypatch.setattr(contenders, "keep_memory", lambda: False)
