"""featstore opens no connection and writes only to the named paths: watched over all verbs and the Python API."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
"""Each test starts processes that import torch."""


@pytest.fixture
def folder():
    """Yield a folder that every user may enter. tmp_path is below a folder of mode 700, and access(2) ignores capabilities."""
    with tempfile.TemporaryDirectory(prefix="watched-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


HERE = Path(__file__).resolve().parent
FOREIGN = 54321
"""A user id without an entry in the user database."""


def watched(place: Path, *arguments: str, home: Path | None = None, foreign: bool = False) -> list[str]:
    """Run surface.py in an environment with nothing but PATH and HOME; return its output, and require that it kept
    to PLACE, the folder of temporary files and, if there is a home, featstore's cache in it."""
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
        # The user may read every file, since the interpreter can be anywhere, but write only what any user may write.
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
    # torch's compiler always caches its code in the folder of temporary files.
    allowed = [
        place,
        Path(tempfile.gettempdir()) / "torchinductor_",
        Path(tempfile.gettempdir()) / "featstore-",
        # Sockets of the worker processes of torch's DataLoader, which bench measures.
        Path(tempfile.gettempdir()) / "pymp-",
        Path("/dev"),
        Path("/proc/self"),
    ]
    if home is not None:
        allowed.append(home / ".cache/featstore")
    written = {what.strip("'") for kind, what in noted if kind == "write"}
    strange = sorted(path for path in written if not path.startswith(tuple(map(os.fspath, allowed))))
    # If the home is read-only, featstore first tries to create the cache folder there.
    parents = {os.fspath(parent) for path in allowed for parent in path.parents}
    assert [path for path in strange if path not in parents and not _is_unnamed(path)] == []
    assert list(elsewhere.iterdir()) == []
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("rc ") and not line.startswith("rc 0")] == []
    assert "root logger untouched" in lines
    return lines


def _is_unnamed(path: str) -> bool:
    """Return whether ``path`` is a temporary file of Python's, deleted by now: directly in the folder of temporary files."""
    return os.path.dirname(path) == tempfile.gettempdir()


@pytest.mark.timeout(1200)
def test_all_verbs_work_for_a_user_without_passwd_entry_and_home(folder):
    lines = watched(folder / "place", "all", foreign=True)
    assert sum(line.startswith("rc 0") for line in lines) >= 16
    assert sum("(2, 1280)" in line for line in lines) == 4


@pytest.mark.timeout(600)
def test_a_home_that_cannot_be_written_stays_as_it_is(folder):
    home = folder / "home"
    home.mkdir(mode=0o555)
    watched(folder / "place", "few", home=home, foreign=True)
    assert list(home.iterdir()) == []


@pytest.mark.timeout(600)
def test_missing_home_is_created_only_for_the_cache(folder):
    home = folder / "home"
    watched(folder / "place", "few", home=home)
    assert {os.fspath(path.relative_to(home)) for path in home.rglob("*") if path.is_file()} == {
        os.fspath(path.relative_to(home)) for path in (home / ".cache/featstore").rglob("*") if path.is_file()
    }
