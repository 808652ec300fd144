"""Tests of the command ``featstore duplicates``."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json
from tests.page_reading import read

pytestmark = pytest.mark.slow


def test_duplicates_command_prints_groups_and_writes_page_and_json(indexed, tmp_path):
    asked = ("duplicates", indexed / "s", "--threshold", "0.999999")
    text = run(*asked, "--html", tmp_path / "page.html").stdout
    assert "1 group of equal bytes" in text
    assert "group 1: equal bytes\n  equal bytes     ant/00.png  (ant)\n  equal bytes     bee/copy.png  (bee)\n" in text
    assert "note: copies of one picture have different labels in 1 group: group 1\n" in text
    assert len(read(tmp_path / "page.html").pictures) == 2
    assert run_json(*asked)["surplus"] == 1
