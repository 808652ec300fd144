"""What the rounds are tried on, in processes of their own."""

from __future__ import annotations

import fcntl
import os
import time

from featstore.errors import UsageError


def answer(*, rate: float) -> dict[str, object]:
    """Return a rate, and the process that computed it; a library's chatter does not disturb."""
    print("chatter")
    return {"rate": rate, "process": os.getpid()}


def refuse() -> None:
    """Find fault with the request."""
    raise UsageError("not like this")


def vanish() -> None:
    """End without an answer."""
    os._exit(3)


def linger(*, path: str) -> None:
    """Lock a file, say so in it, and stay for longer than any test may take."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("locked")
        file.flush()
        time.sleep(3600)
