"""All commands and the Python API open no network connection and write only to the paths that the user names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
"""The tests are slow because each one starts processes that import torch."""


@pytest.fixture
def folder():
    """Yield a folder that every user may enter; tmp_path is not suitable, because its parent folder has mode 700."""
    with tempfile.TemporaryDirectory(prefix="watched-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


HERE = Path(__file__).resolve().parent
FOREIGN = 54321
"""A user id without an entry in the user database."""


def watched(place: Path, *arguments: str, home: Path | None = None, foreign: bool = False) -> list[str]:
    """Run surface.py in a minimal environment and return its output lines.

    Require that it wrote only to ``place``, to the folder of temporary files and, if ``home`` is given, to featstore's
    cache in that folder. ``foreign``: run as a user without an entry in the user database.
    """
    place.mkdir()
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    log = place.parent / "log"
    log.touch()
    for path in (place, elsewhere, log):
        path.chmod(0o777)
    command = [sys.executable, os.fspath(HERE / "surface.py"), os.fspath(place), *arguments]
    if foreign:
        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            pytest.skip("only root can become another user, by setpriv")
        # Allow the unprivileged user to read every file, because the Python interpreter can be in any folder. The right
        # to write stays limited.
        read = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        command = ["setpriv", f"--reuid={FOREIGN}", f"--regid={FOREIGN}", "--clear-groups", *read, *command]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([os.fspath(HERE), os.fspath(HERE.parents[1])]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "FEATSTORE_WATCH": os.fspath(log),
    }
    if home is not None:
        environment["HOME"] = os.fspath(home)
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    noted = [line.split("\t") for line in log.read_text().splitlines()]
    assert [what for kind, what in noted if kind == "connect"] == []
    # torch's compiler always writes its code cache to the folder of temporary files.
    allowed = [
        place,
        Path(tempfile.gettempdir()) / "torchinductor_",
        Path(tempfile.gettempdir()) / "featstore-",
        # The command bench runs torch's DataLoader, whose worker processes use sockets in this folder.
        Path(tempfile.gettempdir()) / "pymp-",
        Path("/dev"),
        Path("/proc/self"),
    ]
    if home is not None:
        allowed.append(home / ".cache/featstore")
    written = {what.strip("'") for kind, what in noted if kind == "write"}
    strange = sorted(path for path in written if not path.startswith(tuple(map(os.fspath, allowed))))
    # The attempt to create the cache folder in a read-only home directory is recorded too.
    parents = {os.fspath(parent) for path in allowed for parent in path.parents}
    assert [path for path in strange if path not in parents and not _is_unnamed(path)] == []
    assert list(elsewhere.iterdir()) == []
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("rc ") and not line.startswith("rc 0")] == []
    assert "root logger untouched" in lines
    return lines


def _is_unnamed(path: str) -> bool:
    """Return whether ``path`` is directly in the folder of temporary files, as Python's unnamed temporary files are."""
    return os.path.dirname(path) == tempfile.gettempdir()


@pytest.mark.timeout(1200)
def test_all_commands_work_without_passwd_entry_and_home_directory(folder):
    lines = watched(folder / "place", "all", foreign=True)
    assert sum(line.startswith("rc 0") for line in lines) >= 16
    assert sum("(2, 1280)" in line for line in lines) == 4


@pytest.mark.timeout(600)
def test_read_only_home_directory_is_not_changed(folder):
    home = folder / "home"
    home.mkdir(mode=0o555)
    watched(folder / "place", "few", home=home, foreign=True)
    assert list(home.iterdir()) == []


@pytest.mark.timeout(600)
def test_missing_home_directory_gets_no_files_except_the_cache(folder):
    home = folder / "home"
    watched(folder / "place", "few", home=home)
    assert {os.fspath(path.relative_to(home)) for path in home.rglob("*") if path.is_file()} == {
        os.fspath(path.relative_to(home)) for path in (home / ".cache/featstore").rglob("*") if path.is_file()
    }
