from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time

import pytest

from featstore.errors import FeatstoreError, UsageError
from featstore.stages.bench.rounds import Contender, Measured, alternate, apart

FAKES = "tests.stages.bench.fakes"


@pytest.mark.slow
def test_benchmarks_run_once_per_round_in_rotating_order():
    told = []
    contenders = [Contender(name, f"{FAKES}:answer", {"rate": rate}) for name, rate in (("a", 2.0), ("b", 3.0))]
    found = alternate(contenders, 3, lambda *each: told.append(each))
    assert told == [(1, "a", 2), (1, "b", 3), (2, "b", 3), (2, "a", 2), (3, "a", 2), (3, "b", 3)]
    assert [(each.name, each.rates) for each in found] == [("a", [2, 2, 2]), ("b", [3, 3, 3])]
    assert len({os.getpid(), *(each.said["process"] for each in found)}) == 3


def test_relative_speed_is_the_median_of_the_ratios_per_round():
    one, other = Measured("one", [1, 4, 9], {"engine": "x"}), Measured("other", [2, 4, 3], {})
    assert one.to_dict() == {"name": "one", "median": 4, "least": 1, "greatest": 9, "rates": [1, 4, 9], "engine": "x"}
    # The ratios of the three rounds are 1/2, 4/4 and 9/3, with the median 1; the ratio of the medians would be 4/3.
    assert one.share_of(other) == 1


def test_error_names_the_benchmark_that_failed():
    with pytest.raises(UsageError, match="^the one: not like this$"):
        apart(f"{FAKES}:refuse", {}, "the one")
    with pytest.raises(FeatstoreError, match="^the one: it ended itself with code 3"):
        apart(f"{FAKES}:vanish", {}, "the one")


@pytest.mark.slow
def test_benchmark_process_exits_when_its_parent_is_killed(tmp_path):
    lock = tmp_path / "lock"
    code = f"from featstore.stages.bench.rounds import apart; apart('{FAKES}:linger', {{'path': {str(lock)!r}}}, 'x')"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (lock.exists() and lock.read_text()):
        time.sleep(0.02)
    process.kill()
    process.wait()
    with open(lock) as file:
        # Wait for the lock. If the process of the benchmark did not exit, it would hold the lock for an hour.
        fcntl.flock(file, fcntl.LOCK_EX)
