"""The progress display for bytes and for pictures: a bar on a terminal, lines in a log."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from featstore.cli import output
from featstore.cli.output import Bar
from featstore.embed.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_of_a_download_shows_bytes_rate_and_note(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_progress_line_in_a_log_has_the_rate_since_the_start(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
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


SCRIPT = """
import time
from featstore.cli.output import Bar
from featstore.embed.progress import Progress
bar = Bar()
for done in (0, 0, 20, 40):
    bar(Progress(done, 100, 0))
    time.sleep(0.2)
bar.close()
"""


def on_terminal(width: int) -> str:
    """Run the script SCRIPT on a terminal of ``width`` columns (0: unknown width); return what the terminal shows."""
    handle, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if width else 0, width, 0, 0))
    command, environment = [sys.executable, "-c", SCRIPT], {**os.environ, "COLUMNS": "80"}
    child = subprocess.Popen(command, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            data = os.read(handle, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
    os.close(handle)
    assert child.wait() == 0, shown
    return shown.decode()


@pytest.mark.parametrize("width", [0, 60])
def test_progress_bar_appears_with_the_first_measured_rate(width):
    lines = [line for line in on_terminal(width).split("\r") if line.strip()]
    assert lines[0].startswith(" 20%")
    assert all(re.search(r"[0-9.]+img/s", line) for line in lines)
    assert " 40%" in lines[-1]
    assert max(map(len, lines)) <= (width or 80)


def test_progress_line_in_a_log_appears_with_the_first_measured_rate(capsys, monkeypatch):
    monkeypatch.setattr(output, "_LOG_SECONDS", 0.0)
    bar = Bar()
    time.sleep(0.01)
    bar(Progress(0, 100, 0))
    assert capsys.readouterr().err == ""
    bar(Progress(50, 100, 2))
    assert re.fullmatch(r"50 of 100 images, [\d.]+/s, 0\.0 min left, 2 failed\n", capsys.readouterr().err)
    bar(Progress(60, 0, 0))
    assert re.fullmatch(r"60 images, [\d.]+/s\n", capsys.readouterr().err)
    bar(Progress(0, 100, 0, "waiting for 3 units"))
    assert capsys.readouterr().err == "0 of 100 images, waiting for 3 units\n"
