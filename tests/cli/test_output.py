"""The progress bar: bytes and pictures, on a terminal and in a log."""

from __future__ import annotations

import io
import sys

import pytest

from featstore.cli import output
from featstore.cli.output import Bar
from featstore.embed.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("COLUMNS", "120")
    bar = Bar("B")
    for done in (50_000_000, 60_000_000, 90_000_000):
        bar(Progress(done, 100_000_000, failed=0, note="a.zip"))
    bar.close()
    last = seen.getvalue().split("\r")[-1]
    assert "90.0M/100M" in last
    assert "B/s" in last
    assert "a.zip" in last


def test_a_log_has_a_line_with_the_rate_of_this_run(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    bar = Bar("B")
    bar(Progress(50_000_000, 100_000_000, failed=0, note="a.zip"))
    now[0] = 40.0
    bar(Progress(60_000_000, 100_000_000, failed=0, note="a.zip"))
    assert capsys.readouterr().err == "60.0 of 100.0 MB, 0.2 MB/s, 2.7 min left, a.zip\n"
    now[0] = 80.0
    pictures = Bar()
    pictures(Progress(0, 100, failed=0))
    now[0] = 180.0
    pictures(Progress(50, 100, failed=2))
    assert capsys.readouterr().err == "50 of 100 images, 0.5/s, 1.7 min left, 2 failed\n"
