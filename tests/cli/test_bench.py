"""featstore bench."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_the_disk_is_measured(tmp_path):
    report = run_json("bench", "--store", tmp_path, "--megabytes", "2", "--rounds", "1")
    assert report["megabytes"] == 2
    assert list(tmp_path.iterdir()) == []


def test_pictures_and_a_store_are_not_measured_at_once(tmp_path):
    error = run("bench", tmp_path, "--store", tmp_path, code=2).stderr
    assert "--store measures the store alone; leave PICTURES out" in error
