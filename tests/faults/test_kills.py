"""Killed at any point, a verb that is run again gives what an uninterrupted one gives."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.faults.workplace import BATCH

pytestmark = pytest.mark.slow


def test_killed_verbs_lose_duplicate_and_change_nothing() -> None:
    # In a process of its own: forks of this one, in which torch has worked, would not be whole.
    result = subprocess.run(
        [sys.executable, "-m", "tests.faults.killing", "20", "--seed", "7"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    trials = json.loads(result.stdout)
    assert sum(trial["kills"] for trial in trials) >= 20
    assert {trial["verb"] for trial in trials} == {"extract", "add", "label", "compact", "train", "index"}
    for trial in trials:
        assert (trial["lost"], trial["doubled"], trial["different"], trial["problems"]) == (0, 0, [], []), trial
        assert trial["redone"] <= 2 * 6 * BATCH
