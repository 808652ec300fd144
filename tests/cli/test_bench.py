"""Tests of the command ``featstore bench``."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_bench_measures_the_disk_and_leaves_no_file(tmp_path):
    report = run_json("bench", "--store", tmp_path, "--megabytes", "2", "--rounds", "1")
    assert report["megabytes"] == 2
    assert list(tmp_path.iterdir()) == []


def test_bench_rejects_pictures_together_with_a_store(tmp_path):
    error = run("bench", tmp_path, "--store", tmp_path, code=2).stderr
    assert "--store measures the store alone; leave PICTURES out" in error
