"""Culprits: rows of an unfinished unit whose pictures killed, stalled or exhausted the process that decoded them.

work/<unit>/culprit.<row>: JSON with a checksum, ``reason`` and ``message``, written by the supervisor. Whoever works on the unit makes
them failures without trying again; they go with the unit's work folder, when its shard says the same.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from featstore.errors import DamagedError
from featstore.files import atomic
from featstore.store import folders
from featstore.store.claims import work_folder

_PREFIX = "culprit."


def write_culprit(store: Path, unit: int, row: int, reason: str, message: str) -> None:
    """Note a culprit durably; nothing happens where the unit was finished meanwhile. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        atomic.write_json(work_folder(store, unit) / f"{_PREFIX}{row}", {"reason": reason, "message": message})


def read_culprits(directory: Path) -> dict[int, tuple[str, str]]:
    """Return reason and message by row. A note that is damaged is passed over: the picture will tell again."""
    found = {}
    for name in os.listdir(directory):
        if number := folders.CULPRIT.fullmatch(name):
            with contextlib.suppress(DamagedError, FileNotFoundError, IsADirectoryError):
                value = atomic.read_json(directory / name, follow=False)
                found[int(number[1])] = str(value.get("reason")), str(value.get("message"))
    return found
