"""Fetch a data set of the registry: download its archives and unpack them to a folder of pictures."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from featstore.datasets.download import download
from featstore.datasets.registry import Dataset
from featstore.datasets.unpacking import folder_extent, unpack
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic

RECORD: Final = ".featstore-sample.json"
"""File that records the content of a finished folder; hidden, so that it is not read as a
picture of the folder."""

FetchProgress = Callable[[int, int, str], None]
"""Progress callback: called with the number of bytes received, the size of all archives in bytes, and a text that names
the current step."""


def fetch(dataset: Dataset, folder: str | os.PathLike[str], *, progress: FetchProgress | None = None) -> None:
    """Download and unpack ``dataset`` into ``folder``.

    ``folder`` appears only when it is complete. Until then archives and unpacked files are beside it in
    ``<folder>.featstore-partial``, where a later call continues. A finished folder is not changed.

    Raises UsageError if ``folder`` has other content or another process is fetching it, DamagedError if an archive is
    not the published one or cannot be unpacked safely, FeatstoreError if it cannot be downloaded.
    """
    root = Path(os.path.abspath(folder))
    report = progress or (lambda done, total, note: None)
    if _finished(dataset, root):
        return
    work = root.with_name(root.name + ".featstore-partial")
    atomic.make_directory(work)
    with _locked(work):
        before = 0
        for archive in dataset.archives:
            download(
                archive,
                work / archive.name,
                lambda have, before=before, name=archive.name: report(before + have, dataset.size, name),  # type: ignore[misc]
            )
            before += archive.size
        report(before, dataset.size, "unpacking")
        _unpack(dataset, work, root)
        for archive in dataset.archives:
            (work / archive.name).unlink()
        # The folder stays if it has foreign files.
        with contextlib.suppress(OSError):
            work.rmdir()


def _unpack(dataset: Dataset, work: Path, root: Path) -> None:
    """Unpack the archives in ``work`` and rename the result to ``root``."""
    unpacked = work / "unpacked"
    if unpacked.exists():
        # A folder that an interrupted call left may contain incomplete files.
        shutil.rmtree(unpacked)
    unpacked.mkdir()
    for archive in dataset.archives:
        unpack(work / archive.name, archive.inside, unpacked / archive.to)
    count, size = folder_extent(unpacked)
    record: dict[str, Any] = {
        "sample": dataset.name,
        "home": dataset.home,
        "licence": dataset.licence,
        "sha256": [archive.sha256 for archive in dataset.archives],
        "files": count,
        "bytes": size,
    }
    atomic.write_json(unpacked / RECORD, record)
    os.rename(unpacked, root)
    atomic.sync(root.parent)


def _finished(dataset: Dataset, root: Path) -> bool:
    """Return whether the folder ``root`` holds the finished ``dataset``; False if the folder is missing or empty.

    Raises UsageError if the folder has other content.
    """
    if not os.path.lexists(root):
        return False
    if not root.is_dir() or root.is_symlink():
        raise UsageError(f"{root}: is there and no folder; name a new folder for the sample")
    if not any(root.iterdir()):
        return False
    try:
        record = atomic.read_json(root / RECORD)
    except (OSError, DamagedError):
        record = {}
    if record.get("sample") != dataset.name:
        raise UsageError(f"{root}: holds other files; name a new folder for the sample")
    count, size = folder_extent(root)
    own = (root / RECORD).stat().st_size
    if (count - 1, size - own) != (record["files"], record["bytes"]):
        raise UsageError(
            f"{root}: was changed since it was unpacked ({count - 1:,} files of {size - own:,} bytes instead of "
            f"{record['files']:,} of {record['bytes']:,}); delete it and run again, or name a new folder"
        )
    return True


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Lock the folder ``work``; raise UsageError if another process holds the lock."""
    handle = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking the folder, the process that held the lock may have finished and removed it.
            held = os.path.exists(work) and os.path.samestat(os.stat(work), os.fstat(handle))
        except BlockingIOError:
            held = False
        if not held:
            raise UsageError(f"{work}: another process downloads into it; wait until it is done and run again")
        yield
    finally:
        os.close(handle)
