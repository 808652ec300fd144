"""Tests of the command ``featstore failures``."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_failures_command_lists_groups_and_exports_unreadable_pictures(place):
    found = run_json("failures", place / "s")
    assert found["reasons"] == {"not-a-picture": 1}
    text = run("failures", place / "s").stdout
    assert r"bad \n name.jpg: not-a-picture" in text
    assert run("failures", place / "s", "--csv").stdout.startswith("key,reason,message\n")
