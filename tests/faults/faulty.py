"""System calls that fail or kill on purpose, in a test process."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from typing import Any

Act = Callable[[str, int], None]
"""Action before a call: gets the call's name and, for a write, the bytes of the buffer."""
CALLS = ("fsync", "replace", "link", "unlink", "mkdir", "rmdir", "rename", "ftruncate")


class Calls:
    """Count the calls that change files; before each, ``act`` may kill, raise, or do anything else."""

    def __init__(self, act: Act) -> None:
        self.act, self.count, self.written = act, 0, 0

    def meet(self, name: str, size: int = 0) -> None:
        self.count += 1
        self.act(name, size)

    def install(self) -> None:
        """Patch Python's system calls for the rest of this process."""
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
    """Kill this process with SIGKILL before the ``number``-th call."""

    def act(name: str, size: int) -> None:
        if calls.count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    calls = Calls(act)
    return calls


def full_after(size: int) -> Calls:
    """Simulate a full disk after ``size`` bytes are written."""

    def act(name: str, wanted: int) -> None:
        if name in ("write", "open", "mkdir", "link") and calls.written + wanted > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls = Calls(act)
    return calls


def at(number: int, what: Callable[[], object]) -> Calls:
    """Run ``what`` just before the ``number``-th patched system call."""

    def act(name: str, size: int) -> None:
        if calls.count == number:
            what()

    calls = Calls(act)
    return calls
