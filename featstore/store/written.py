"""Marks of what was written: a file that is missing is told from one that never was.

``written/<folder>-<epoch>-<number>``, an empty file, says that the plan segment, table or shard of that name was
complete once. It is made after the file and removed before it, so a mark without its file means a lost file: also the
last segment, the last table, or the shard of a finished unit, which no gap in the numbers shows. Stores of earlier
versions have no marks, and are read as they were.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from featstore.errors import DamagedError
from featstore.store import folders


def mark_of(file: Path) -> str:
    """Return the name of a file's mark: plan/000000/000004.h5 has plan-000000-000004."""
    stem = file.name.removesuffix(".h5")
    return f"{folders.SHARDS}-{stem}" if file.parent.name == folders.SHARDS else _mark(file.parent, stem)


def _mark(epoch: Path, stem: str) -> str:
    return f"{epoch.parent.name}-{epoch.name}-{stem}"


def mark(store: Path, file: Path) -> None:
    """Note durably that ``file`` was written."""
    with folders.opened(store, folders.WRITTEN, make=True) as handle:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(mark_of(file), flags, 0o666, dir_fd=handle))
        os.fsync(handle)


def unmark(store: Path, *marks: str) -> None:
    """Remove marks, before the files that they speak of."""
    with contextlib.suppress(FileNotFoundError), folders.opened(store, folders.WRITTEN) as handle:
        for name in marks:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=handle)
        os.fsync(handle)


def marks(store: Path) -> frozenset[str]:
    """Return all marks. Read them before the files: what is written in between is then no missing file."""
    try:
        return frozenset(folders.names(store, folders.WRITTEN, pattern=folders.MARK))
    except FileNotFoundError:
        return frozenset()


def outside(store: Path, epoch: int, names: Iterable[str], planned: Iterable[str]) -> list[str]:
    """Return the shards of ``names`` that ``planned``, those of the plan's units, lacks and no compaction left behind.

    List ``names`` before the plan is read: what is planned meanwhile is then not among them. What a compaction that
    was killed leaves belongs to the epoch that it was about to put in force, or, where the plan in force has its
    marks and so is known to be whole, to an earlier one. Any other shard says that a part of the plan is lost.
    """
    whole = any(name.startswith(f"{folders.PLAN}-{epoch:06d}-") for name in marks(store))
    strays = sorted(set(names) - set(planned))
    return [name for name in strays if int(name[:6]) == epoch or (int(name[:6]) < epoch and not whole)]


def numbered(store: Path, folder: str, epoch: int, what: str) -> list[Path]:
    """Return the files of one epoch of the plan or the tables, in order; [] where none was written yet.

    Raises DamagedError, which calls a missing one ``what``: a gap, a mark without its file, or an epoch that must have
    the folder (a compaction writes it) and has not.
    """
    known = [name for name in marks(store) if name.startswith(f"{folder}-{epoch:06d}-")]
    path = store / folder / f"{epoch:06d}"
    try:
        found = folders.names(store, folder, path.name, pattern=folders.NUMBERED)
    except FileNotFoundError:
        if epoch or (folder == folders.PLAN and _epochs(store)):
            raise DamagedError(f"{path}: is missing; restore the store from a copy") from None
        found = []
    there = {_mark(path, name.removesuffix(".h5")) for name in found}
    if found != [f"{number:06d}.h5" for number in range(len(found))] or not there.issuperset(known):
        raise DamagedError(f"{path}: {what} is missing; restore the store from a copy")
    return [path / name for name in found]


def _epochs(store: Path) -> list[str]:
    try:
        return folders.names(store, folders.PLAN, pattern=folders.EPOCH)
    except FileNotFoundError:
        return []
