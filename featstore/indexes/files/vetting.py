"""Test whether an untrusted FAISS file can be opened safely: open it in a child process with limits first.

The test is needed because FAISS trusts what it reads. If a file passed the test, or this process wrote the file, an
empty file in the user's cache records that. The name of the empty file is a hash of path, size, times and inode of the
FAISS file, so a file that changed is checked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from featstore.errors import DamagedError
from featstore.files import atomic
from featstore.processes import sandbox

_BYTES_A_SECOND = 20e6
_SECONDS = 60.0
_MEMORY = 2 << 30


def vet(path: Path, rows: int, dimension: int, *, mmap: bool) -> None:
    """Open the FAISS file in a child process. It should have ``rows`` vectors of ``dimension`` numbers.

    Raises DamagedError if the file cannot be opened, or if the child process dies while opening the file.
    """
    mark = _mark(path)
    if mark is not None and mark.exists():
        return
    size = os.stat(path).st_size
    arguments = {"path": os.fspath(path), "rows": rows, "dimension": dimension, "mmap": mmap}
    seconds = _SECONDS + size / _BYTES_A_SECOND
    try:
        sandbox.call("featstore.indexes.files.vetting:probe", arguments, seconds=seconds, memory=2 * size + _MEMORY)
    except sandbox.Died as death:
        raise DamagedError(
            f"{path}: opening it ends a process ({death}): it is damaged or made to do harm; build the index again"
        ) from None
    _note(mark)


def trust(path: Path) -> None:
    """Record that this process wrote the FAISS file ``path``, so that the file is opened without the test."""
    _note(_mark(path))


def probe(path: str, rows: int, dimension: int, mmap: bool) -> None:
    """Open a FAISS file. Runs in the child process, which can open no other file."""
    from featstore.indexes.files.faiss_io import VectorIndex

    # Allow two file descriptors: one for the check of the structure, which stays open, and one for FAISS.
    sandbox.limit_files(2)
    VectorIndex.read(Path(path), rows, dimension, mmap=mmap)


def _mark(path: Path) -> Path | None:
    """Return the path of the empty file which records that ``path`` is safe; None without a cache directory."""
    cache = atomic.cache_directory()
    if cache is None:
        return None
    status = os.stat(path)
    facts = (
        os.path.realpath(path),
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    return cache / "vetted" / hashlib.sha256(repr(facts).encode()).hexdigest()


def _note(mark: Path | None) -> None:
    if mark is None:
        return
    # If the cache is not writable, the file is only checked again at the next opening.
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
