"""Run verbs on an attacker's files: in a fork, with limits, beside a user's folder that is watched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore import cli
from featstore.errors import FeatstoreError
from tests.made import extract, tiny_backbone

SECONDS, MEMORY = 60, 2 << 30
_WATCHED = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""inotify: modified, attributes changed, closed after writing, moved, created, deleted."""


@dataclass(frozen=True)
class Ground:
    """The folders of one attack: the user's ``home``, the attacker's ``theirs``, ``out`` for the verbs' output."""

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
def watched(folder: Path) -> Iterator[Callable[[], list[str]]]:
    """Watch everything below ``folder``; yield a function that returns the names of files opened for writing, made or
    removed."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    names: dict[int, Path] = {}
    for one in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        number = libc.inotify_add_watch(handle, os.fsencode(one), _WATCHED)
        if handle < 0 or number < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        names[number] = one

    def events() -> list[str]:
        found = []
        while select.select([handle], [], [], 0)[0]:
            data, at = os.read(handle, 1 << 16), 0
            while at < len(data):
                number, mask, _, length = struct.unpack_from("iIII", data, at)
                name = data[at + 16 : at + 16 + length].rstrip(b"\0")
                found.append(f"{names.get(number)}/{os.fsdecode(name)} ({mask:#x})")
                at += 16 + length
        return found

    try:
        yield events
    finally:
        os.close(handle)


def run_verb(ground: Ground, arguments: list[str], cache: Path) -> list[str]:
    """Run one verb in a fork; return a description of each violation."""
    told, started = ground.folder / "told", time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(handle, stream)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            os.chdir(ground.theirs)
            os.environ |= {"HOME": os.fspath(ground.home), "XDG_CACHE_HOME": os.fspath(cache)}
            code = _call(arguments, ground)
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
            os.kill(child, signal.SIGKILL)
            ended = os.wait4(child, 0)
            wrong.append(f"no end after {SECONDS} s")
            break
        time.sleep(0.005)
    code, peak = os.waitstatus_to_exitcode(ended[1]), ended[2].ru_maxrss << 10
    text = told.read_text(errors="backslashreplace")
    if code not in (0, 1, 2) and not wrong:
        wrong.append(f"ended with {code}")
    if peak > MEMORY:
        wrong.append(f"took {peak >> 20} MiB")
    if "Traceback" in text or code == 99:
        wrong.append(text.strip().splitlines()[-1][:200])
    if raw := {c for c in text if c != "\n" and not c.isprintable()}:
        wrong.append(f"printed {raw}")
    return wrong


def _call(arguments: list[str], ground: Ground) -> int:
    if arguments[0] != "EXTRACT":
        cli.main(arguments)
    try:
        extract(ground.home / "pictures", "store", backbone=tiny_backbone(), batch=4, workers=1)
    except (FeatstoreError, OSError) as error:
        from featstore.cli.output import say

        say(str(error).replace("\n", " "))
        return 1
    return 0


def limit_this_process() -> None:
    """Disable core dumps of verbs that die."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
