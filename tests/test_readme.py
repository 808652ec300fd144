"""The README's commands and programs, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def environment() -> dict[str, str]:
    """Return an environment in which ``featstore`` is the one under test."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "error",
    }


def test_the_first_two_commands_install_run_and_test():
    assert BLOCKS[0][1].endswith("/pip install . && .venv/bin/featstore demo\n")
    assert BLOCKS[1][1].endswith("/pip install -e '.[test]' && .venv/bin/python -m pytest\n")
    assert ".venv/bin/" in (README.parent / ".ci" / "run").read_text()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(2, len(BLOCKS)))
def test_every_other_block_runs_after_those_before_it(place, number):
    kind, text = BLOCKS[number]
    command = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-W", "error", "-c", text]
    result = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_every_verb_is_named():
    from featstore.cli import VERBS

    missing = [verb for verb in VERBS if f"featstore {verb}" not in README.read_text()]
    assert missing == []
