"""A user's strict mypy finds every wrong use of the public API, and no error in correct uses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "MYPYPATH": str(HERE.parents[1])}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mypy_reports_every_wrong_use_and_no_right_use(tmp_path):
    # Run mypy in another folder, without this project's configuration, and ignore errors in site-packages.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    files = [str(HERE / "wrong_uses.py"), str(HERE / "right_uses.py")]
    result = subprocess.run([*command, "--cache-dir", tmp_path / "cache", *files], cwd=HERE, env=ENVIRONMENT, capture_output=True, text=True, check=False)  # fmt: skip
    errors = re.findall(r"^(?:.*/)?(\w+)\.py:(\d+): error: .*$", result.stdout, re.MULTILINE)
    text = (HERE / "wrong_uses.py").read_text().splitlines()
    wrong = [str(number) for number, line in enumerate(text, 1) if re.search(r"  # (?!noqa)", line)]
    assert len(wrong) == 13
    assert errors == [("wrong_uses", number) for number in wrong], result.stdout + result.stderr
