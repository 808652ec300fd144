"""Run the commands and programs of every README unchanged, and check the length of the READMEs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
README = TOP / "README.md"
ROOMS = sorted([*TOP.glob("featstore/**/README.md"), *TOP.glob("*/README.md")])
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
INSTALLING = 2
"""Number of code blocks at the start of the main README that install featstore; .ci/run runs these commands."""


def blocks_of(readme: Path) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in FENCE.findall(readme.read_text()) if kind in ("sh", "python")]


RUN = [
    *((README, number) for number in range(INSTALLING, len(blocks_of(README)))),
    # Skip tests/README.md: its commands run the tests.
    *((room, number) for room in ROOMS if room.parent.name != "tests" for number in range(len(blocks_of(room)))),
]


SHORTENED = """#!/usr/bin/env bash
set -euo pipefail
{command} "$@"
if [ "${{1-}}" = sample ]; then find "$3" -name '*.png' ! -name '0[0-2]??.png' -delete; fi
"""
"""The command ``featstore`` of this Python environment, but ``featstore sample digits FOLDER`` writes only 300 of the
1,797 digits. With all digits the network would take too long.
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which blocks run; in bin/ is the command ``featstore`` that the blocks call."""
    place = tmp_path_factory.mktemp("readme")
    (place / "bin").mkdir()
    command = place / "bin/featstore"
    command.write_text(SHORTENED.format(command=shlex.quote(str(Path(sys.executable).parent / "featstore"))))
    command.chmod(0o755)
    return place


def environment(place: Path) -> dict[str, str]:
    """Return environment variables with which ``featstore`` is the command in ``place``/bin."""
    folders = [place / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    return {
        **os.environ,
        "PATH": os.pathsep.join(map(str, folders)),
        "PYTHONWARNINGS": "error",
    }


def test_first_two_readme_blocks_install_featstore_and_run_demo_and_tests():
    blocks = blocks_of(README)
    assert blocks[0][1].endswith("/pip install . && .venv/bin/featstore demo\n")
    assert blocks[1][1].endswith("/pip install -e '.[test]' && .venv/bin/python -m pytest\n")
    assert ".venv/bin/" in (TOP / ".ci" / "run").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("readme", "number"), RUN, ids=lambda value: str(value).removeprefix(f"{TOP}{os.sep}"))
def test_readme_blocks_run_in_order_without_errors(place, readme, number):
    """Run the blocks in one folder, the main README first: blocks use files made by earlier blocks."""
    kind, text = blocks_of(readme)[number]
    command = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-W", "error", "-c", text]
    result = subprocess.run(command, cwd=place, env=environment(place), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


def test_main_readme_contains_every_command():
    from featstore.cli import VERBS

    missing = [verb for verb in VERBS if f"featstore {verb}" not in README.read_text()]
    assert missing == []


def paragraphs_of(readme: Path) -> list[str]:
    text = FENCE.sub("", readme.read_text())
    parts = re.split(r"\n\s*\n|\n(?=\s*[*-] )", text)
    return [part for part in parts if not part.lstrip().startswith(("|", "#", "!["))]


@pytest.mark.parametrize("readme", [README, *ROOMS], ids=lambda path: str(path.relative_to(TOP)))
def test_readme_paragraphs_have_at_most_60_words(readme):
    long = [part for part in paragraphs_of(readme) if len(part.split()) > 60]
    assert long == []


@pytest.mark.parametrize("readme", [README, *ROOMS], ids=lambda path: str(path.relative_to(TOP)))
def test_readme_links_and_pictures_point_to_existing_files(readme):
    for target in re.findall(r"\]\(([^)#\s]+)", readme.read_text()):
        if "://" not in target:
            assert (readme.parent / target).exists(), target


def test_main_readme_is_short_and_shows_pictures_and_python_early():
    lines = README.read_text().splitlines()
    assert len(lines) <= 180
    assert "```python" in lines[:60]
    assert sum(line.startswith("![") for line in lines) == 2
