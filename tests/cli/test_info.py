"""Tests of the command ``featstore info``."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_info_describes_store_head_index_and_folder(place):
    found = run_json("info", place / "s")
    assert (found["vectors"], found["labels"], found["splits"]) == (4, {"ant": 2, "bee": 2}, {"train": 2, "val": 2})
    text = run("info", place / "s").stdout
    assert "5 images = 4 vectors + 1 failure + 0 pending" in text
    assert "1280-d float32 of efficientnet_lite0" in text
