"""No command does harm when it reads forged stores, heads, indexes or exports with valid checksums."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.forging import KINDS
from tests.faults.sandbox import states, watched

LEFT_OUT = ("demo", "regions", "follower", "identity", "imported", "lineage", "named", "removed", "perceptron")
"""Kinds of forgeries that only tests.slow.forged runs, because they take from five seconds to a minute each."""


# Run one forgery of each kind that is not excluded; tests.slow.forged runs a thousand. Use a separate process, because
# commands run in forks, and forks work only if torch has started no thread.
@pytest.mark.slow
def test_commands_do_no_harm_if_they_read_forged_files() -> None:
    kinds = [word for kind in KINDS if kind not in LEFT_OUT for word in ("--each", kind)]
    command = [sys.executable, "-m", "tests.slow.forged", "--count", "1", "--jobs", "1", *kinds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith(", 0 did harm")


def test_watching_the_users_folder_detects_writes_outside_the_store(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "letter").write_bytes(b"mine")
    with watched(home) as events:
        (home / "deep" / "letter").read_bytes()
        assert not events()
        os.close(os.open(home / "deep" / "letter", os.O_RDWR))
        assert home / "deep" / "letter" in events()
        (home / "new").touch()
        assert home / "new" in events()


def test_comparing_file_states_detects_a_change_through_a_hard_link(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_bytes(b"mine")
    os.link(tmp_path / "home/letter", tmp_path / "shard")
    before = states(tmp_path / "home")
    (tmp_path / "shard").write_bytes(b"theirs")
    assert states(tmp_path / "home") != before
