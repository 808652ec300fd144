from __future__ import annotations

import pytest

from featstore.processes import sandbox
from featstore.stages.bench import contenders, rounds, speed, storing


@pytest.fixture
def in_this_process(monkeypatch):
    """Run benchmarks in the process of the tests, because a new process takes seconds to start.

    test_rounds.py tests separate processes.
    """

    def apart(function, arguments, what):
        return sandbox.function_of(function)(**arguments)

    for module in (rounds, speed, storing):
        monkeypatch.setattr(module, "apart", apart)
    # keep_memory changes malloc for the whole process, and so would affect all later tests.
    monkeypatch.setattr(contenders, "keep_memory", lambda: False)
