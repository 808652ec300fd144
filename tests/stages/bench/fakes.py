"""Contender functions for the tests of rounds; they run in separate processes."""

from __future__ import annotations

import fcntl
import os
import time

from featstore.errors import UsageError


def answer(*, rate: float) -> dict[str, object]:
    """Return a rate and the process id, after printing to stdout as libraries may do."""
    print("chatter")
    return {"rate": rate, "process": os.getpid()}


def refuse() -> None:
    """Raise an error about the request."""
    raise UsageError("not like this")


def vanish() -> None:
    """Exit without an answer."""
    os._exit(3)


def linger(*, path: str) -> None:
    """Lock a file, write a mark into it, and sleep longer than any test."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("locked")
        file.flush()
        time.sleep(3600)
