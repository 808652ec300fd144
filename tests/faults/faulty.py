"""Replace system calls of a test process by versions that fail, kill the process or run other code."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from typing import Any

Act = Callable[[str, int], None]
"""Function that runs before a system call; gets the name of the call and, for a write, the number of bytes."""
CALLS = ("fsync", "replace", "link", "unlink", "mkdir", "rmdir", "rename", "ftruncate")


class Calls:
    """Count the system calls that change files, and run ``act`` before each; ``act`` may raise or kill the process."""

    def __init__(self, act: Act) -> None:
        self.act, self.count, self.written = act, 0, 0

    def meet(self, name: str, size: int = 0) -> None:
        self.count += 1
        self.act(name, size)

    def install(self) -> None:
        """Replace functions of ``os`` and ``open`` until this process ends, so that their calls are counted and can
        fail."""
        for name in CALLS:
            setattr(os, name, self._between(name, getattr(os, name)))
        real, calls = builtins.open, self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                calls.meet("write", len(view))
                written = super().write(view)
                calls.written += written
                return written

        def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
            if not set(mode) & set("wxa+") or "b" not in mode:
                return real(file, mode, buffering, *rest, **more)
            calls.meet("open")
            raw = Raw(file, mode.replace("b", ""))
            if buffering == 0:
                return raw
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        builtins.open = opened  # type: ignore[assignment]

    def _between(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            self.meet(name)
            return real(*arguments, **options)

        return called


def kill_at(number: int) -> Calls:
    """Return a Calls object that kills this process with SIGKILL before the ``number``-th counted system call."""

    def act(name: str, size: int) -> None:
        if calls.count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    calls = Calls(act)
    return calls


def full_after(size: int) -> Calls:
    """Return a Calls object that simulates a full disk after ``size`` bytes are written."""

    def act(name: str, wanted: int) -> None:
        if name in ("write", "open", "mkdir", "link") and calls.written + wanted > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls = Calls(act)
    return calls


def at(number: int, what: Callable[[], object]) -> Calls:
    """Return a Calls object that calls the function ``what`` just before the ``number``-th counted system call."""

    def act(name: str, size: int) -> None:
        if calls.count == number:
            what()

    calls = Calls(act)
    return calls
