"""Atomic, durable file writes: temporary name, sync, rename, sync of the directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from featstore.errors import DamagedError, UsageError

TEMPORARY_SUFFIX = ".tmp"
STORE_MARK = "featstore.json"
"""Name of the file that marks a folder as a store."""
LARGEST_JSON = 1 << 20
"""Maximum size in bytes of a JSON file to read; files that write_json writes are far smaller."""
_READ_BYTES = 4 << 20
_NAMED_BYTES = 100
"""Maximum number of bytes of a file's name that are used in the name of its temporary file; the system limits the
length of file names."""
_LOCK_MARK = b"featstore lock of "
_LOCK_TRIES = 100
_LOCK_SECONDS, _LOCK_PAUSE = 1.0, 0.02
"""Seconds to wait until the owner of a lock has written its name into the lock file, and seconds between checks."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_held: dict[str, int] = {}


def sync(path: Path) -> None:
    """Sync a file's content or a directory's entries to disk; a rename is durable only after syncing its directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path) -> None:
    """Create ``directory`` and its missing parents durably; existing directories are not changed."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync(directory.parent)


def require_place(path: Path, beside: str = "") -> None:
    """Raise UsageError if no file can be written to ``path``, or if it is inside a store; for a check before a long
    computation.

    ``beside``: a suffix. Another file, named like ``path`` plus this suffix, will be written to the same folder; its
    name must not be too long either.
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{path}: there is no folder {folder}; make it first, or name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {folder} may not be written; get access to it, or name another place")
    store = next((each for each in Path(os.path.realpath(path)).parents if os.path.isfile(each / STORE_MARK)), None)
    if store is not None:
        raise UsageError(f"{path}: lies in the store {store}; name a place outside of it")
    taken, most = len(os.fsencode(Path(path).name)), os.pathconf(folder, "PC_NAME_MAX") - len(os.fsencode(beside))
    if taken > most:
        raise UsageError(f"{path}: its name has {taken:,} bytes, where {most:,} fit; choose a shorter one")


def cache_directory() -> Path | None:
    """Return the path of featstore's cache folder, which may not exist yet; None if the user has no home directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # Without a home directory, expanduser returns the relative path "~/.cache".
    return Path(cache) / "featstore" if os.path.isabs(cache) else None


@contextlib.contextmanager
def new_file(path: Path, *, exclusive: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit sync it (if ``durable``) and rename it to ``path``.

    With ``exclusive``, an existing ``path`` is kept and FileExistsError is raised. Of several writers exactly one
    succeeds, also on NFS, because link(2) is atomic there. On an error the temporary file is removed.
    """
    path = Path(path)
    name = os.fsdecode(os.fsencode(path.name)[:_NAMED_BYTES])
    temporary = path.with_name(f".{name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        if exclusive:
            _link(temporary, path)
        else:
            os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        # An OSError of write() has no file name; add the name, so that users see which disk is full.
        if error.filename in (None, os.fspath(temporary)) and not isinstance(error, FileExistsError):
            error.filename = os.fspath(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _link(temporary: Path, path: Path) -> None:
    """Link a new file to ``path``; raise FileExistsError if another file is there.

    Over NFS the server's answer may be lost; the repeated call then fails although the first call made the link. A link
    count of 2 shows that the link was made (see open(2), O_EXCL).
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        if os.stat(temporary).st_nlink != 2:
            raise


@contextlib.contextmanager
def only_writer(path: Path, what: str) -> Iterator[None]:
    """Hold a lock for writing ``path``. Raises UsageError that names the owner if another process holds the lock.

    The lock is an flock(2) on the file ``.NAME.lock`` beside ``path``, so it ends with the process. If a foreign file
    has that name, it is neither followed nor changed. The lock is reentrant within a thread. On a file system without
    locks nothing is locked, and the last of two writers wins. ``what``: name of the written thing, for the message.
    """
    path = Path(path)
    lock = Path(os.path.realpath(path.absolute().parent)) / f".{path.name}.lock"
    name, me = os.fspath(lock), threading.get_ident()
    if _held.get(name) == me:
        yield
        return
    handle = _take_lock(lock, path, what)
    _held[name] = me
    try:
        yield
    finally:
        del _held[name]
        with contextlib.suppress(OSError):
            os.unlink(lock)
        os.close(handle)


def _take_lock(lock: Path, path: Path, what: str) -> int:
    until = time.monotonic() + _LOCK_SECONDS
    for _ in range(_LOCK_TRIES):
        try:
            handle = _new_lock(lock)
            if handle is not None:
                return handle
        except FileExistsError:
            if who := _lock_holder(lock, until):
                raise UsageError(
                    f"{path}: {who} is writing this {what}; wait until it is done, or name another file"
                ) from None
    raise UsageError(f"{path}: others keep writing this {what}; wait until they are done, or name another file")


def _new_lock(lock: Path) -> int | None:
    """Create the lock file and write the name of this process into it; return its handle.

    Returns None if another process has taken the lock in the meantime. Raises FileExistsError if the file exists.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, handle)
        if not (_locked(handle) and _is_at(handle, lock)):
            return None
        os.write(handle, _LOCK_MARK + f"process {os.getpid()} on {socket.gethostname()}".encode())
        stack.pop_all()
        return handle


def _lock_holder(lock: Path, until: float) -> str:
    """Return the owner of the lock; "" if the lock is free or its owner is not known yet.

    The lock file of a dead process is removed. A new lock file is empty until its owner has written its name; an empty
    file is kept until the time ``until``; later, an empty file without a lock counts as left by a dead process. Raises
    UsageError for other files.
    """
    foreign = UsageError(f"{lock}: is in the way and no lock of featstore's; remove it, or name another file")
    try:
        handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError:
        raise foreign from None
    try:
        holder = os.pread(handle, 300, 0) if stat.S_ISREG(os.fstat(handle).st_mode) else b"?"
        if holder and not holder.startswith(_LOCK_MARK):
            raise foreign
        if not holder and time.monotonic() < until:
            time.sleep(_LOCK_PAUSE)
        elif not _locked(handle):
            return os.fsdecode(holder.removeprefix(_LOCK_MARK)) or "another process"
        elif _is_at(handle, lock):
            os.unlink(lock)
        return ""
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Return whether ``path`` still leads to the open file ``handle``."""
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def write_bytes(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Write ``data`` to ``path`` atomically."""
    with new_file(path, exclusive=exclusive) as temporary, open(temporary, "xb") as file:
        file.write(data)


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of ``value``: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _checksum_text(value: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(canonical_json(value).encode())


def write_json(path: Path, value: dict[str, Any], *, exclusive: bool = False) -> None:
    """Write ``value`` as indented JSON with a ``checksum`` (XXH3-128 of its canonical form)."""
    text = json.dumps({**value, "checksum": _checksum_text(value)}, indent=2, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", exclusive=exclusive)


def open_regular(path: Path, *, follow: bool = True, writable: bool = False) -> io.FileIO:
    """Open a regular file for reading, or for reading and writing, without ever blocking.

    Only regular files are accepted: a pipe without a writer would block forever, and a device may be endless.
    ``follow=False`` also refuses a symbolic link, which may lead to any file.

    Raises DamagedError for other kinds of files, IsADirectoryError for a folder, OSError if opening fails.
    """
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise DamagedError(
                f"{path}: is a symbolic link, where a file is needed; put the file itself here"
            ) from None
        if error.errno == errno.ENXIO:  # ENXIO: a socket, or a device without a driver
            raise DamagedError(f"{path}: is no regular file") from None
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise DamagedError(f"{path}: is no regular file")
    return io.FileIO(handle, "r+b" if writable else "rb")


def read_small(path: Path, limit: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file.

    Raises DamagedError if it has more than ``limit`` bytes, OSError if it cannot be read.
    """
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise DamagedError(f"{path}: has {size:,} bytes where {limit:,} are the most")
        return file.read(limit + 1)


def read_json(path: Path, *, follow: bool = True) -> dict[str, Any]:
    """Read a JSON file that write_json wrote; raise DamagedError if a byte has changed.

    ``follow``: as in open_regular.
    """
    return parse_json(path, read_small(path, LARGEST_JSON, follow=follow))


def parse_json(path: Path, data: bytes | bytearray) -> dict[str, Any]:
    """Parse ``data``, the content of a file that write_json wrote.

    Raises DamagedError that names ``path`` if the content was changed.
    """
    try:
        value: dict[str, Any] = json.loads(data)
        checksum = value.pop("checksum")
        whole = json.dumps({**value, "checksum": checksum}, indent=2, allow_nan=False).encode() + b"\n"
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: not a JSON file that featstore wrote ({error})") from None
    if whole != data or checksum != _checksum_text(value):
        raise DamagedError(f"{path}: its content does not match its checksum")
    return value


def checksum_file(path: Path, start: int = 0, stop: int | None = None) -> str:
    """Return the XXH3-128, in hexadecimal, of the bytes ``start`` to ``stop`` (default: the end) of the file ``path``.

    Memory use is constant. Uses read() instead of a memory map: read() is faster on a cold disk, and an I/O error
    raises OSError instead of killing the process (SIGBUS).
    """
    with open_regular(path) as file:
        return checksum_open(file, start, stop)


def checksum_open(file: io.FileIO, start: int = 0, stop: int | None = None) -> str:
    """Return the XXH3-128, in hexadecimal, of the bytes ``start`` to ``stop`` (default: the end) of an open file."""
    digest = xxhash.xxh3_128()
    view = memoryview(bytearray(_READ_BYTES))
    left = -1 if stop is None else stop - start
    file.seek(start)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, max(left, 0), os.POSIX_FADV_SEQUENTIAL)
    while left and (count := file.readinto(view if left < 0 else view[:left])):
        digest.update(view[:count])
        left -= count if left > 0 else 0
    return digest.hexdigest()
