"""Run the command as a user does: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(
    *arguments: str | os.PathLike[str], cwd: Path | None = None, stdin: bytes = b"", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``featstore`` with ``arguments`` and require the exit ``code``; a traceback is never right."""
    result = subprocess.run(
        [sys.executable, "-m", "featstore", *map(os.fspath, arguments)],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        check=False,
    )
    out, err = result.stdout.decode(), result.stderr.decode()
    assert "Traceback" not in err, err
    assert result.returncode == code, (result.returncode, out, err)
    return subprocess.CompletedProcess(result.args, result.returncode, out, err)


def run_json(*arguments: str | os.PathLike[str], **options: Any) -> Any:
    """Run a verb with --json and return what it printed."""
    return json.loads(run(*arguments, "--json", **options).stdout)


SMALL = ("--backbone", "efficientnet_lite0", "--batch", "4")
UNTRAINED = ("--backbone", "squeezenet1_1", "--weights", "random:0", "--batch", "8")

WITHOUT = """
import sys
from featstore.cli import featstore
from featstore.stages.extract.supervisor import _Attempt

def refuse(attempt):
    raise AssertionError("a process was started")

_Attempt.run = refuse
for command in {commands!r}:
    featstore.main(command, standalone_mode=False)
print("loaded:", [name for name in ("torch", "torchvision", "openvino", "PIL", "pandas") if name in sys.modules])
"""
"""A program that runs commands in one process, which cannot start another, and prints which large libraries it loaded."""


def loaded_by(*commands: tuple[str | os.PathLike[str], ...], cwd: Path) -> str:
    """Run commands in one process that cannot start another; return which of the large libraries it then has."""
    code = WITHOUT.format(commands=[list(map(str, command)) for command in commands])
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
    return result.stdout.splitlines()[-1]
