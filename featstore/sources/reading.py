"""Read the bytes of one picture, or explain in one line why they cannot be read.

Only this module opens pictures. It never blocks on a FIFO, never opens a device, and detects files that change while
being read. An error of one picture is a ReadFailure. An error of this process (no file handles, no memory) stays an
OSError, so that it does not count as the picture's failure.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from featstore.sources.base import ADDRESS_HINT, Picture, ReadFailure, size_and_mtime
from featstore.text import shown, to_bytes

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
    """Return the path of ``location``: an absolute path unchanged, a relative path below ``root``.

    ``..`` is resolved by name, not through links. Raises ReadFailure("outside-root") if a relative location leaves
    ``root``. Otherwise an untrusted table or list could make the user read other files.
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
    """Return size and mtime (ns) of the file ``location``; (-1, -1) if it is not a file that read_picture can read."""
    try:
        return size_and_mtime(os.stat(resolve(root, location)))
    except (OSError, ValueError, ReadFailure):
        return -1, -1


def read_picture(root: Path, location: bytes, offset: int, size: int, *, limit: int) -> Picture:
    """Read one picture, which is in one of three places.

    A separate file: ``location`` is its path, ``offset`` is -1, and ``size`` is not used. An archive member: ``size``
    bytes at ``offset`` in the archive ``location``. A row of a Parquet file: ``location`` is the path of the file, a
    NUL byte and the name of the column, ``offset`` is the row, and ``size`` the file's size (see parquet_rows.py).
    Raises ReadFailure with a reason, also for more than ``limit`` bytes; OSError if this process lacks handles or
    memory.
    """
    location, inside, column = location.partition(b"\0") if offset >= 0 else (location, b"", b"")
    path = resolve(encoded(root), location)
    with _as_failure(path):
        if inside:
            _require_file(path, os.stat(path))
            return _read_row(path, column, offset, size, limit)
        handle, status = _opened(path)
        try:
            picture = _read_file(handle, path, limit) if offset < 0 else _read_member(handle, path, offset, size, limit)
            if size_and_mtime(os.fstat(handle)) != size_and_mtime(status):
                raise ReadFailure("changed-while-read", f"{shown(path)}: changed while it was read")
        finally:
            os.close(handle)
    return picture


def open_picture_file(root: Path, location: bytes) -> BinaryIO:
    """Open a picture that is a separate file, so that parts of it can be read. Raises the errors of read_picture."""
    path = resolve(encoded(root), location)
    with _as_failure(path):
        return os.fdopen(_opened(path)[0], "rb")


def _opened(path: bytes) -> tuple[int, os.stat_result]:
    # Check before opening, because opening a device or FIFO can have side effects. Check the opened file again, because
    # it may have been replaced.
    _require_file(path, os.stat(path))
    handle = os.open(path, _FLAGS)
    try:
        status = os.fstat(handle)
        _require_file(path, status)
    except BaseException:
        os.close(handle)
        raise
    return handle, status


@contextlib.contextmanager
def _as_failure(path: bytes) -> Iterator[None]:
    """Convert errors that concern only the picture ``path`` to a ReadFailure."""
    try:
        yield
    except OSError as error:
        if error.errno in _OWN_TROUBLE:
            raise
        reason = _REASONS.get(error.errno or 0, "io-error")
        hint = f"; {ADDRESS_HINT}" if reason == "missing" and b"://" in path else ""
        raise ReadFailure(reason, f"{shown(path)}: {os.strerror(error.errno or errno.EIO)}{hint}") from None
    except ValueError:
        raise ReadFailure("missing", f"{shown(path)}: a path cannot hold a NUL byte") from None


def _read_row(path: bytes, column: bytes, row: int, size: int, limit: int) -> Picture:
    from featstore.sources.parquet_rows import read_row

    status = os.stat(path)
    if status.st_size != size:
        raise ReadFailure("changed-while-read", f"{shown(path)}: was changed since it was listed")
    return read_row(path, column, row, status, limit=limit)


def encoded(root: Path) -> bytes:
    """Return ``root`` as bytes; it may come from the command line or from a store."""
    try:
        return os.fsencode(root)
    except UnicodeEncodeError:
        # The locale cannot encode a character of this path, which comes from a store.
        return to_bytes(os.fspath(root))


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
    # Read one byte more than expected, to detect a growing file.
    data = _read(handle, size + 1, 0)
    if len(data) != size:
        raise ReadFailure("changed-while-read", f"{shown(path)}: {len(data):,} bytes came where {size:,} were expected")
    return Picture(data, size, mtime)


def _read_member(handle: int, path: bytes, offset: int, size: int, limit: int) -> Picture:
    if size < 0:
        what = "a link, device or sparse file, or its name is absolute or has .."
        raise ReadFailure("not-a-file", f"{shown(path)}: the member is no plain file with a plain name ({what})")
    _require_size(path, size, limit)
    # A member's header is directly before its data and shows whether the archive is unchanged since it was listed.
    data = _read(handle, BLOCK + size, max(offset - BLOCK, 0))
    header = member_header(data[:BLOCK])
    if header is None or header[0] != size or len(data) != BLOCK + size:
        message = f"no member of {size:,} bytes at byte {offset:,} any more; the archive was changed"
        raise ReadFailure("changed-while-read", f"{shown(path)}: {message}")
    return Picture(data[BLOCK:], size, header[1])


def member_header(block: bytes) -> tuple[int, int] | None:
    """Return size and mtime (ns) from the 512-byte tar header before a member's data; None if it is not a header."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None
    return header.size, min(max(int(header.mtime), 0), _LARGEST_SECONDS) * 1_000_000_000


def _read(handle: int, count: int, start: int) -> bytes:
    """Read ``count`` bytes at the position ``start``; return fewer bytes only at the end of the file."""
    data = os.pread(handle, count, start)
    if len(data) == count or not data:
        return data
    parts = [data]
    got = len(data)
    while got < count and (data := os.pread(handle, count - got, start + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)
