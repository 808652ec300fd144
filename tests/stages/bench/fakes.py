"""Functions that test_rounds.py benchmarks, each in a separate process."""

from __future__ import annotations

import fcntl
import os
import time

from featstore.errors import UsageError


def answer(*, rate: float) -> dict[str, object]:
    """Print something to stdout, as a library may do; return a rate and the process id."""
    print("chatter")
    return {"rate": rate, "process": os.getpid()}


def refuse() -> None:
    """Raise UsageError, like a benchmark that cannot run with the given options."""
    raise UsageError("not like this")


def vanish() -> None:
    """Exit with code 3 without returning a result, like a process that crashes."""
    os._exit(3)


def linger(*, path: str) -> None:
    """Lock the file ``path``, write into it, and sleep for an hour."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("locked")
        file.flush()
        time.sleep(3600)
