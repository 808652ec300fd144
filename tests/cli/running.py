"""Run the featstore command in a separate process, as a user does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from tests.warm import SERVER, ForkedWorkers

LIMIT_SECONDS = 280


def without_notice(stderr: bytes) -> bytes:
    """Return ``stderr`` without the warning that Intel's MKL prints on processors with AVX but without AVX2."""
    return re.sub(rb"^Intel oneMKL WARNING: .*\n", b"", stderr, flags=re.MULTILINE)


def run(
    *arguments: str | os.PathLike[str], cwd: Path | None = None, stdin: bytes = b"", code: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``featstore`` with ``arguments``; require the exit ``code`` and no traceback.

    The process is a fork of a server that has imported the large libraries but no module of featstore. The worker
    process of an extraction is a fork of this process. tests/stages/extract/test_supervisor.py starts workers as users
    do.
    """
    words = list(map(os.fspath, arguments))
    surroundings = {**os.environ, "PYTHONWARNINGS": "error"}
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        streams = [reduction.DupFd(stream.fileno()) for stream in (given, out, err)]
        process = SERVER.Process(target=_command, args=(words, streams, os.fspath(cwd or os.getcwd()), surroundings))
        process.start()
        process.join(LIMIT_SECONDS)
        if process.exitcode is None:
            process.kill()
        out.seek(0)
        err.seek(0)
        said, told = out.read().decode(), without_notice(err.read()).decode()
    assert "Traceback" not in told, told
    assert process.exitcode == code, (process.exitcode, said, told)
    return subprocess.CompletedProcess(words, code, said, told)


def _command(words: list[str], streams: list[Any], cwd: str, environment: dict[str, str]) -> None:
    """Run the featstore command ``words`` in this forked process.

    Its directory, environment and streams are set first, and warnings are made errors.
    """
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.warnoptions[:] = ["error"]
    warnings.resetwarnings()
    warnings.simplefilter("error")
    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    # Keep the descriptors open (closefd=False) until the process ends, as an interpreter does.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    from featstore import cli

    if words[:1] == ["extract"]:
        from featstore.stages.extract import supervisor

        supervisor.subprocess = ForkedWorkers  # type: ignore[assignment]
    cli.main(words)


def run_json(*arguments: str | os.PathLike[str], **options: Any) -> Any:
    """Run a command with --json and return what it printed."""
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
"""A program that runs commands in one process, forbids extraction processes, and prints which libraries it imported."""


def loaded_by(*commands: tuple[str | os.PathLike[str], ...], cwd: Path) -> str:
    """Run commands in one process that may not start extraction processes; return which large libraries it imported."""
    code = WITHOUT.format(commands=[list(map(str, command)) for command in commands])
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True)
    return result.stdout.splitlines()[-1]
