"""Culprits: rows of an unfinished unit (row range) whose pictures killed or stalled a decoder or exhausted its memory.

work/<unit>/culprit.<row> is JSON with a checksum, ``reason`` and ``message``, written by the supervisor. The worker of
the unit records such rows as failures without decoding them again. The files are removed with the unit's work folder,
after its shard was written.
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
    """Record durably why the picture of ``row`` fails: it killed or stalled a decoder, or exhausted its memory.

    Nothing is recorded if the unit is already finished. Raises OSError if writing fails.
    """
    with contextlib.suppress(FileNotFoundError):
        atomic.write_json(work_folder(store, unit) / f"{_PREFIX}{row}", {"reason": reason, "message": message})


def read_culprits(directory: Path) -> dict[int, tuple[str, str]]:
    """Return (reason, message) by row number. Damaged records are ignored: their pictures are decoded again."""
    found = {}
    for name in os.listdir(directory):
        if number := folders.CULPRIT.fullmatch(name):
            with contextlib.suppress(DamagedError, FileNotFoundError, IsADirectoryError):
                value = atomic.read_json(directory / name, follow=False)
                found[int(number[1])] = str(value.get("reason")), str(value.get("message"))
    return found
