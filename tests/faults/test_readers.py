"""Run tests/slow/readers.py, which takes ten minutes by default, for six seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.slow.readers import KINDS


@pytest.mark.slow
def test_readers_see_one_consistent_state_during_writes() -> None:
    # Run in a separate process: readers and writer are forks, which work only if torch has not started threads.
    command = [sys.executable, "-m", "tests.slow.readers", "--minutes", "0.1", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {
        name: int(count.replace(",", "")) for name, count in (line.rsplit(None, 1) for line in done.stdout.splitlines())
    }
    assert all(found[kind] > 0 for kind in KINDS)
