"""Marks of completed files: they distinguish a lost file from one that was never written.

``written/<folder>-<epoch>-<number>`` is an empty file. It says that the plan segment, table or shard of that name was
complete once. A mark is made after the file is written, and removed before the file is removed. So a mark without a
file means that the file is lost. Marks also detect the loss of the last segment, the last table, or the shard of a
finished unit, which leaves no gap in the numbers. Stores of earlier versions have no marks and are read as before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from featstore.errors import DamagedError
from featstore.store import folders


def mark_of(file: Path) -> str:
    """Return the name of the mark for a file, such as plan-000000-000004 for plan/000000/000004.h5."""
    stem = file.name.removesuffix(".h5")
    flat = file.parent.name in (folders.SHARDS, folders.HISTORY)
    return f"{file.parent.name}-{stem}" if flat else _mark(file.parent, stem)


def _mark(epoch: Path, stem: str) -> str:
    return f"{epoch.parent.name}-{epoch.name}-{stem}"


def mark(store: Path, file: Path) -> None:
    """Record durably that ``file`` was written."""
    with folders.opened(store, folders.WRITTEN, make=True) as handle:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(mark_of(file), flags, 0o666, dir_fd=handle))
        os.fsync(handle)


def unmark(store: Path, *marks: str) -> None:
    """Remove ``marks``, which say that files were complete; call this before removing the marked files."""
    with contextlib.suppress(FileNotFoundError), folders.opened(store, folders.WRITTEN) as handle:
        for name in marks:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=handle)
        os.fsync(handle)


def marks(store: Path) -> frozenset[str]:
    """Return all marks. Read the marks before listing the files: a file written in between then does not look lost."""
    try:
        return frozenset(folders.names(store, folders.WRITTEN, pattern=folders.MARK))
    except FileNotFoundError:
        return frozenset()


def unplanned_shards(store: Path, epoch: int, names: Iterable[str], planned: Iterable[str]) -> list[str]:
    """Return the shards of ``names`` that are not in ``planned``, except leftovers of a compaction.

    Any such shard means that a part of the plan is lost. Leftovers of a killed compaction are shards of the next epoch
    and, if the marks show that the current plan is complete, shards of earlier epochs. The caller must list ``names``
    before reading the plan, so that ``names`` contains no shard that was planned in between.
    """
    whole = any(name.startswith(f"{folders.PLAN}-{epoch:06d}-") for name in marks(store))
    strays = sorted(set(names) - set(planned))
    return [name for name in strays if int(name[:6]) == epoch or (int(name[:6]) < epoch and not whole)]


def numbered(store: Path, folder: str, epoch: int, what: str) -> list[Path]:
    """Return the files of one epoch of the plan or the tables, in order; [] if no file was written yet.

    Raises DamagedError for a gap in the numbers, a mark without its file, or a missing folder of an epoch that a
    compaction wrote. ``what``: name of this kind of file in messages.
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
