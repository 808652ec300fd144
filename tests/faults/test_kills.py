"""A command that is killed at any point and run again gives the same result as an uninterrupted run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.faults.workplace import BATCH

pytestmark = pytest.mark.slow


def test_rerun_of_a_killed_command_equals_an_uninterrupted_run() -> None:
    # Run in a separate process: the test process has started threads of torch, so torch would not work in its forks.
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.killing", "12", "--seed", "7"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    trials = json.loads(result.stdout)
    assert sum(trial["kills"] for trial in trials) >= 12
    assert {trial["verb"] for trial in trials} == {"extract", "add", "label", "compact", "train", "index"}
    for trial in trials:
        assert (trial["lost"], trial["doubled"], trial["different"], trial["problems"]) == (0, 0, [], []), trial
        assert trial["redone"] <= 2 * 6 * BATCH


def test_rerun_of_a_killed_purge_erases_all_traces() -> None:
    command = [sys.executable, "-m", "tests.faults.purging", "--kills", "4", "--seed", "3"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    trials = json.loads(result.stdout)
    assert sum(trial["kills"] for trial in trials) >= 4
    for trial in trials:
        assert (trial["problems"], trial["different"], trial["found"]) == ([], [], []), trial
