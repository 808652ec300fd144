"""Run featstore commands on an attacker's files in a forked process with limits; report changed files of the user."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from featstore import cli
from featstore.processes import sandbox

SECONDS, MEMORY = 60, 2 << 30
_WATCHED = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""inotify events to report: modified, attributes changed, closed after writing, moved, created, deleted."""


@dataclass(frozen=True)
class Ground:
    """The folders of one attack: ``home`` of the user, ``theirs`` of the attacker, and ``out`` for the output of
    commands."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def theirs(self) -> Path:
        return self.folder / "theirs"

    @property
    def out(self) -> Path:
        return self.folder / "out"


@contextlib.contextmanager
def watched(*folders: Path) -> Iterator[Callable[[], list[Path]]]:
    """Watch everything below ``folders``; yield a function that returns the files opened for writing, made or removed."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    names: dict[int, Path] = {}
    inside = (path for folder in folders for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
    for one in [*folders, *inside]:
        number = libc.inotify_add_watch(handle, os.fsencode(one), _WATCHED)
        if handle < 0 or number < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        names[number] = one

    def events() -> list[Path]:
        found = []
        while select.select([handle], [], [], 0)[0]:
            data, at = os.read(handle, 1 << 16), 0
            while at < len(data):
                number, _, _, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + length].rstrip(b"\0")
                found.append(names[number] / os.fsdecode(name) if number in names else Path("too many events"))
                at += 16 + length
        return found

    try:
        yield events
    finally:
        os.close(handle)


def states(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Return size, mtime, mode and inode of every file below ``folder``.

    Comparing two results detects a change through another hard link of a file, which inotify does not report.
    """
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[path] = (status.st_size, status.st_mtime_ns, status.st_mode, status.st_ino)
    return found


def run_verb(ground: Ground, arguments: list[str], cache: Path) -> list[str]:
    """Run one command in a fork; return a description of each violation, such as a hang or a traceback."""
    told, started = ground.folder / "told", time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(handle, stream)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            os.setsid()
            os.chdir(ground.theirs)
            # Make the user's modules importable, as with PYTHONPATH: no command may import the module that a forged
            # file names.
            sys.path.insert(0, os.fspath(ground.home / "modules"))
            os.environ |= {"HOME": os.fspath(ground.home), "XDG_CACHE_HOME": os.fspath(cache)}
            torch.set_num_threads(1)
            sandbox.call = call_in_fork
            cli.main(arguments)
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    wrong = []
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - started > SECONDS:
            # Kill the whole process group: setsid made the child its leader, and processes that it started belong to
            # it.
            os.killpg(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
            wrong.append(f"no end after {SECONDS} s")
            break
        time.sleep(0.002)
    code, peak = os.waitstatus_to_exitcode(ended[1]), ended[2].ru_maxrss << 10
    text = told.read_text(errors="backslashreplace")
    if code not in (0, 1, 2) and not wrong:
        wrong.append(f"ended with {code}")
    if peak > MEMORY:
        wrong.append(f"took {peak >> 20} MiB")
    if "Traceback" in text or code == 99:
        wrong.append(text.strip().splitlines()[-1][:200] if text.strip() else "no text")
    # In the output of --history, a line that begins with "featstore: " is no error message: it names the program that
    # changed labels.
    if code == 0 and "--history" not in arguments and (told_error := re.search(r"^featstore: .*", text, re.MULTILINE)):
        wrong.append(f"success, and the error {told_error[0][:200]}")
    if raw := {c for c in text if c != "\n" and not c.isprintable()}:
        wrong.append(f"printed {raw}")
    return wrong


def call_in_fork(function: str, arguments: Mapping[str, Any], *, seconds: float, memory: int) -> Any:
    """Replacement of ``sandbox.call`` that forks this process instead of starting a new interpreter, which takes 1 s."""
    request = {"function": function, "arguments": dict(arguments), "seconds": seconds, "memory": memory}
    asking, answering = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(asking[0], 0)
        os.dup2(answering[1], 1)
        os.closerange(3, 256)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        try:
            sandbox.serve()
        finally:
            os._exit(1)
    os.close(asking[0])
    os.close(answering[1])
    with open(asking[1], "w") as file:
        json.dump(request, file)
    with open(answering[0], "rb") as file:
        ready, _, _ = select.select([file], [], [], seconds)
        if not ready:
            os.kill(child, signal.SIGKILL)
        output = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not ready:
        raise sandbox.Died("stalled", f"no end after {seconds:g} s")
    return sandbox._answer(output, code, seconds)


def limit_this_process() -> None:
    """Disable core dumps in this process and its forks."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_in_fork(work: Callable[[], None]) -> list[str]:
    """Run ``work`` in a fork, so that torch and OpenMP start no thread in this process; return the imported modules."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            with open(writing, "w") as file:
                file.write("\n".join(sys.modules))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading) as file:
        modules = file.read().split("\n")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise subprocess.CalledProcessError(code, "prepare")
    return modules
