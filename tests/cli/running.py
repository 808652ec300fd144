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
