"""List, make and remove the files and folders of a store, but only those with names that featstore uses.

No symbolic link inside a store is followed, because whoever made the store may have put a link to another place there.
Foreign files (.DS_Store, @eaDir) are not part of the store: verify and compact report them, and nothing changes them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from featstore.errors import DamagedError
from featstore.files import atomic

MANIFEST: Final = atomic.STORE_MARK
PLAN: Final = "plan"
TABLES: Final = "tables"
SHARDS: Final = "shards"
WORK: Final = "work"
WRITTEN: Final = "written"
DAMAGED: Final = "damaged"
HISTORY: Final = "history"

EPOCH: Final = re.compile(r"[0-9]{6}")
NUMBERED: Final = re.compile(r"[0-9]{6}\.h5")
SHARD: Final = re.compile(r"[0-9]{6}-[0-9]{8,10}\.h5")
TEMPORARY_SHARD: Final = re.compile(r"\.[0-9]{6}-[0-9]{8,10}\.h5\.[0-9a-f]{12}\.tmp")
"""Pattern of the temporary names of shards that are being written or whose writer died."""
TEMPORARY_NUMBERED: Final = re.compile(r"\.[0-9]{6}\.h5\.[0-9a-f]{12}\.tmp")
WORK_FOLDER: Final = re.compile(r"[0-9]{16,20}|session-[0-9a-f]{16}|compaction|requires")
CLAIM: Final = re.compile(r"claim\.([0-9]{1,9})")
JOURNAL: Final = re.compile(r"journal\.([0-9]{1,9})")
CULPRIT: Final = re.compile(r"culprit\.([0-9]{1,9})")
MARK: Final = re.compile(r"(plan|tables)-[0-9]{6}-[0-9]{6}|shards-[0-9]{6}-[0-9]{8,10}|history-[0-9]{6}")
_TEMPORARY: Final = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp")
_INSIDE: Final = {
    PLAN: (NUMBERED,),
    TABLES: (NUMBERED,),
    WORK: (CLAIM, JOURNAL, CULPRIT),
}
_FLAT: Final = {SHARDS: SHARD, WRITTEN: MARK, HISTORY: NUMBERED}
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def is_ours(name: str, *patterns: re.Pattern[str]) -> bool:
    """Return whether ``name`` matches one of ``patterns``, or is the temporary name of a file that matches."""
    temporary = _TEMPORARY.fullmatch(name)
    return any(pattern.fullmatch(temporary[1] if temporary else name) for pattern in patterns)


@contextlib.contextmanager
def opened(store: Path, *parts: str, make: bool = False) -> Iterator[int]:
    """Yield a directory file descriptor of the folder ``parts`` below ``store``, for the ``dir_fd`` of os functions.

    Each part must be a real folder. If ``make`` is true, missing folders below the store are made durably. Raises
    DamagedError if a part is a link or a file; also FileNotFoundError and OSError.
    """
    handle = os.open(store, _FLAGS)
    try:
        for depth, part in enumerate(parts):
            try:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=handle)
                        os.fsync(handle)
                below = os.open(part, _FLAGS | os.O_NOFOLLOW, dir_fd=handle)
            except OSError as error:
                path = Path(store, *parts[: depth + 1])
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise DamagedError(
                        f"{path}: is a link or a file where a store has a folder; nothing behind it is touched: "
                        "put the folder itself here"
                    ) from None
                error.filename = os.fspath(path)
                raise
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def make(store: Path, *parts: str) -> Path:
    """Make the folder ``parts`` below ``store`` durably if it is missing; return its path.

    Raises the errors of ``opened``.
    """
    with opened(store, *parts, make=True):
        return Path(store, *parts)


def check(store: Path) -> None:
    """Raise DamagedError if a folder of the store is a link or a file."""
    for name in (PLAN, TABLES, SHARDS, WORK, WRITTEN, DAMAGED, HISTORY):
        with contextlib.suppress(FileNotFoundError), opened(store, name):
            pass


def names(store: Path, *parts: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the sorted names that match ``pattern`` in the folder ``parts``.

    Raises FileNotFoundError if the folder does not exist, DamagedError if it is a link or a file, OSError if it cannot
    be read.
    """
    with opened(store, *parts) as handle:
        return sorted(name for name in os.listdir(handle) if pattern.fullmatch(name))


def regular(store: Path, *parts: str, pattern: re.Pattern[str]) -> list[str]:
    """Return the same as ``names``, but only the names of regular files."""
    with opened(store, *parts) as handle, os.scandir(handle) as entries:
        return sorted(
            entry.name for entry in entries if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        )


def remove_file(store: Path, *parts: str) -> None:
    """Remove the file ``parts``, if it exists; of a symbolic link, only the link is removed and not its target."""
    with contextlib.suppress(FileNotFoundError), opened(store, *parts[:-1]) as handle:
        os.unlink(parts[-1], dir_fd=handle)


def remove_folder(store: Path, *parts: str) -> bool:
    """Remove featstore's files from the folder ``parts``, and the folder too if it is then empty.

    Return whether the folder no longer exists.
    ``parts``: path of the folder of an epoch in plan/ or tables/, or of a work folder. Foreign files stay.
    """
    with contextlib.suppress(FileNotFoundError), opened(store, *parts[:-1]) as parent:
        if not stat.S_ISDIR(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode):
            return False
        with opened(store, *parts) as handle:
            for name in os.listdir(handle):
                if is_ours(name, *_INSIDE[parts[0]]):
                    with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                        os.unlink(name, dir_fd=handle)
        try:
            os.rmdir(parts[-1], dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            return error.errno == errno.ENOENT
    return True


def strangers(store: Path) -> list[str]:
    """Return the sorted paths of files that featstore did not write, relative to the store."""
    found: list[str] = []
    for name in _listed(store):
        if name in (PLAN, TABLES, WORK):
            pattern = WORK_FOLDER if name == WORK else EPOCH
            for below in _listed(store, name):
                if not pattern.fullmatch(below) or not _is_folder(store, name, below):
                    found.append(f"{name}/{below}")
                    continue
                rest = (each for each in _listed(store, name, below) if not is_ours(each, *_INSIDE[name]))
                found += [f"{name}/{below}/{each}" for each in rest]
        elif name in _FLAT:
            pattern = _FLAT[name]
            found += [f"{name}/{each}" for each in _listed(store, name) if not is_ours(each, pattern)]
        elif name != DAMAGED and not is_ours(name, re.compile(re.escape(MANIFEST))):
            found.append(name)
    return sorted(found)


def _listed(store: Path, *parts: str) -> list[str]:
    # Ignore a link in place of a folder here: opening the store reports the link.
    with contextlib.suppress(FileNotFoundError, DamagedError), opened(store, *parts) as handle:
        return os.listdir(handle)
    return []


def _is_folder(store: Path, *parts: str) -> bool:
    with contextlib.suppress(FileNotFoundError), opened(store, *parts[:-1]) as handle:
        return stat.S_ISDIR(os.stat(parts[-1], dir_fd=handle, follow_symlinks=False).st_mode)
    return False


def size(store: Path) -> int:
    """Return the total bytes of all regular files in the store, also of those that featstore did not write.

    A file that vanishes meanwhile counts 0.
    """
    total = 0
    for _, _, found, handle in os.fwalk(store):
        for name in found:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=handle, follow_symlinks=False)
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
