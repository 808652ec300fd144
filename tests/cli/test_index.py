"""Tests of the command ``featstore index``."""

from __future__ import annotations

import shutil

import pytest

from tests.chain import names, write_coloured
from tests.cli.running import UNTRAINED, run

pytestmark = pytest.mark.slow


def test_index_update_reports_an_exceeded_memory_limit(indexed, tmp_path):
    """Update two indexes after 4 pictures were added to 11: a default index, and one with a memory limit of 30K.

    The limit is enough for 11 pictures and too small for 15.
    """
    place = shutil.copytree(indexed, tmp_path / "place")
    assert "recall: 1" in run("index", place / "s").stdout
    asked = ("--recall", "0.9", "--at", "3", "--memory", "30K", "--latency", "1s", "--out", place / "c.faiss")
    built = run("index", place / "s", *asked)
    assert (
        "contract: recall@3 of at least 0.9, at most 30,720 bytes of memory, a query in at most 1000 ms" in built.stdout
    )
    assert "not tried: of 11 vectors fewer than 1,000 can be held out" in built.stdout
    assert "tried flat (1 of " in built.stderr
    table = next(line for line in built.stdout.splitlines() if line.startswith("flat "))
    assert table.endswith("chosen")
    shown = run("info", place / "c.faiss").stdout
    assert table in shown
    assert (
        "the contract (recall@3 of at least 0.9, a query in at most 1000 ms) holds: every vector is compared; a query took"
        in shown
    )

    write_coloured(place / "pictures", names("", 7)[5:7] + names("", 9)[16:], seed=4)
    run("extract", place / "pictures", place / "s", *UNTRAINED)
    assert "4 pictures are not in the index" in run("search", place / "s.faiss", "--key", "bee/03.png").stdout
    assert "4 pictures are not in the index" in run("info", place / "s.faiss").stdout
    updated = run("index", place / "s", "--update")
    assert "4 added, 0 removed" in updated.stdout
    assert "recall: 1" in updated.stdout
    broken = run("index", place / "s", "--update", "--out", place / "c.faiss", code=1).stdout.splitlines()
    assert "4 added, 0 removed" in broken[0]
    remedy = f"featstore index {place}/s --recall 0.9 --at 3 --memory 30720 --latency 1s --out {place}/c.faiss"
    assert broken[-1].endswith(f"bytes where 30,720 are allowed; build it again: {remedy}")
