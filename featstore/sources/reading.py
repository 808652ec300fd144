"""Read the bytes of one picture, or say in one line why they cannot be had.

The one place that opens pictures: it never blocks on a FIFO, never opens a device, and tells a file that
changes under it. What is wrong with one picture is a ReadFailure; what is wrong with this process (no more
file handles, no memory) stays an OSError, so that no picture is blamed for it.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from pathlib import Path
from typing import Final

from featstore.sources.base import Picture, ReadFailure, size_and_mtime
from featstore.text import shown

BLOCK: Final = tarfile.BLOCKSIZE
_FLAGS: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OWN_TROUBLE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_REASONS: Final = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.ELOOP: "missing",
    errno.ENAMETOOLONG: "missing",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EISDIR: "not-a-file",
    errno.ENXIO: "not-a-file",
    errno.ENODEV: "not-a-file",
}
_LARGEST_SECONDS: Final = ((1 << 63) - 1) // 1_000_000_000


def resolve(root: bytes, location: bytes) -> bytes:
    """Return the path that ``location`` names: absolute ones as they are, relative ones under ``root``.

    ``..`` is resolved by name, not through links. Raises ReadFailure("outside-root") where a relative
    location leaves ``root``: a table or list of a stranger reads no file that its user did not point at.
    """
    if location.startswith(b"/"):
        return location
    if b".." in location:
        location = os.path.normpath(location)
        if location == b".." or location.startswith(b"../"):
            raise ReadFailure(
                "outside-root",
                f"{shown(location)}: the path leaves {shown(root)}; if it may, name a --root that holds both",
            )
    return os.path.join(root, location)


def stat_picture(root: bytes, location: bytes) -> tuple[int, int]:
    """Return size and mtime (ns) of a file that was named, (-1, -1) where read_picture would fail."""
    try:
        return size_and_mtime(os.stat(resolve(root, location)))
    except (OSError, ValueError, ReadFailure):
        return -1, -1


def read_picture(root: Path, location: bytes, offset: int, size: int, *, limit: int) -> Picture:
    """Read one picture: the file ``location`` (``offset`` -1), ``size`` bytes from ``offset`` of an archive, or, where
    ``location`` has a column behind a NUL byte, row ``offset`` of a Parquet file of ``size`` bytes (see parquet_rows.py).

    For a file of its own ``size`` is not used: the result says how large it is now. More than ``limit`` bytes
    are not read. Raises ReadFailure with its reason; OSError where this process lacks handles or memory.
    """
    location, inside, column = location.partition(b"\0") if offset >= 0 else (location, b"", b"")
    path = resolve(os.fsencode(root), location)
    try:
        # Opening a device or FIFO can have effects of its own, so look first; fstat then tells the truth.
        _require_file(path, os.stat(path))
        if inside:
            return _read_row(path, column, offset, size, limit)
        handle = os.open(path, _FLAGS)
        try:
            status = os.fstat(handle)
            _require_file(path, status)
            picture = _read_file(handle, path, limit) if offset < 0 else _read_member(handle, path, offset, size, limit)
            if size_and_mtime(os.fstat(handle)) != size_and_mtime(status):
                raise ReadFailure("changed-while-read", f"{shown(path)}: changed while it was read")
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in _OWN_TROUBLE:
            raise
        reason = _REASONS.get(error.errno or 0, "io-error")
        raise ReadFailure(reason, f"{shown(path)}: {os.strerror(error.errno or errno.EIO)}") from None
    except ValueError:
        raise ReadFailure("missing", f"{shown(path)}: a path cannot hold a NUL byte") from None
    return picture


def _read_row(path: bytes, column: bytes, row: int, size: int, limit: int) -> Picture:
    from featstore.sources.parquet_rows import read_row

    status = os.stat(path)
    if status.st_size != size:
        raise ReadFailure("changed-while-read", f"{shown(path)}: was changed since it was listed")
    return read_row(path, column, row, status, limit=limit)


def _require_file(path: bytes, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a directory" if stat.S_ISDIR(status.st_mode) else "a device, FIFO or socket"
        raise ReadFailure("not-a-file", f"{shown(path)}: {what}, not a file")


def _require_size(path: bytes, size: int, limit: int) -> None:
    if size == 0:
        raise ReadFailure("empty", f"{shown(path)}: has no bytes")
    if size > limit:
        raise ReadFailure("too-large", f"{shown(path)}: {size:,} bytes, where at most {limit:,} are read")


def _read_file(handle: int, path: bytes, limit: int) -> Picture:
    size, mtime = size_and_mtime(os.fstat(handle))
    _require_size(path, size, limit)
    # One byte more than there should be, to see a file that grows.
    data = _read(handle, size + 1, 0)
    if len(data) != size:
        raise ReadFailure("changed-while-read", f"{shown(path)}: {len(data):,} bytes came where {size:,} were expected")
    return Picture(data, size, mtime)


def _read_member(handle: int, path: bytes, offset: int, size: int, limit: int) -> Picture:
    if size < 0:
        what = "a link, device or sparse file, or its name is absolute or has .."
        raise ReadFailure("not-a-file", f"{shown(path)}: the member is no plain file with a plain name ({what})")
    _require_size(path, size, limit)
    # A member's header lies right before its data: it tells whether the archive is still the one that was listed.
    data = _read(handle, BLOCK + size, max(offset - BLOCK, 0))
    header = member_header(data[:BLOCK])
    if header is None or header[0] != size or len(data) != BLOCK + size:
        message = f"no member of {size:,} bytes at byte {offset:,} any more; the archive was changed"
        raise ReadFailure("changed-while-read", f"{shown(path)}: {message}")
    return Picture(data[BLOCK:], size, header[1])


def member_header(block: bytes) -> tuple[int, int] | None:
    """Return size and mtime (ns) from the 512-byte tar header before a member's data; None where it is none."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None
    return header.size, min(max(int(header.mtime), 0), _LARGEST_SECONDS) * 1_000_000_000


def _read(handle: int, count: int, start: int) -> bytes:
    """Read up to ``count`` bytes from ``start``; fewer only at the end of the file."""
    data = os.pread(handle, count, start)
    if len(data) == count or not data:
        return data
    parts = [data]
    got = len(data)
    while got < count and (data := os.pread(handle, count - got, start + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)
