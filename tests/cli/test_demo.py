"""Tests of the command ``featstore demo``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import run, run_json
from tests.page_reading import read


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_writes_a_page_and_a_second_run_repeats_no_step(tmp_path):
    first = run_json("demo", tmp_path / "d", "--limit", "100", "--engine", "torch")
    assert (first["images"], first["vectors"], first["failures"]) == (100, 100, 0)
    assert read(Path(first["page"])).pictures
    second = run("demo", tmp_path / "d", "--limit", "100", "--engine", "torch").stdout
    kept = [line for line in second.splitlines() if line.endswith("(kept)")]
    assert len(kept) == len(first["steps"])
