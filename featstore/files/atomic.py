"""Files that are either whole or not there: temporary name, sync, rename, sync of the directory."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from featstore.errors import DamagedError, UsageError

TEMPORARY_SUFFIX = ".tmp"
_READ_BYTES = 4 << 20


def sync(path: Path) -> None:
    """Make the content of a file durable, or the names in a directory (a rename is not, before this)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path, below: Path | None = None) -> None:
    """Create ``directory`` and its missing parents durably; one that exists is left as it is.

    ``below``: create nothing but what lies below this folder: FileNotFoundError where it is gone. A store that was
    deleted under a run does not rise again without its manifest.
    """
    if directory.is_dir():
        return
    if directory == below:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(directory))
    make_directory(directory.parent, below)
    directory.mkdir(exist_ok=True)
    sync(directory.parent)


def require_place(path: Path) -> None:
    """Raise UsageError where no file can be put at ``path``: asked before the work whose result it is to hold."""
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{path}: there is no folder {folder}; make it first, or name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {folder} may not be written; get access to it, or name another place")


@contextlib.contextmanager
def new_file(path: Path, *, exclusive: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit sync it (if ``durable``) and give it its name.

    With ``exclusive``, a ``path`` that already exists is kept and FileExistsError raised: of several
    writers exactly one succeeds, on NFS too (link(2) is atomic there, O_EXCL on rename is not).
    On an error nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        if exclusive:
            os.link(temporary, path)
        else:
            os.replace(temporary, path)
        if durable:
            sync(path.parent)
    except OSError as error:
        # A write knows its handle only; a person wants to know which disk is full.
        if error.filename in (None, os.fspath(temporary)) and not isinstance(error, FileExistsError):
            error.filename = os.fspath(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def write_bytes(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with new_file(path, exclusive=exclusive) as temporary, open(temporary, "xb") as file:
        file.write(data)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _checksum_text(value: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(canonical_json(value).encode())


def write_json(path: Path, value: dict[str, Any], *, exclusive: bool = False) -> None:
    """Write ``value`` as indented JSON with a ``checksum`` (XXH3-128 of its canonical form)."""
    text = json.dumps({**value, "checksum": _checksum_text(value)}, indent=2, allow_nan=False)
    write_bytes(path, text.encode() + b"\n", exclusive=exclusive)


def read_json(path: Path) -> dict[str, Any]:
    """Read what write_json wrote; raise DamagedError where a byte is not as it was written."""
    return parse_json(path, Path(path).read_bytes())


def parse_json(path: Path, data: bytes | bytearray) -> dict[str, Any]:
    """Return what write_json wrote as ``data``; raise DamagedError, which names ``path``."""
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
    """Return the XXH3-128 of ``path`` from byte ``start`` to ``stop`` (its end), in hexadecimal, in constant memory.

    Read, not mapped: faster on a cold disk, and an I/O error is an OSError, where a map would kill the process.
    """
    with open(path, "rb", buffering=0) as file:
        return checksum_open(file, start, stop)


def checksum_open(file: io.FileIO, start: int = 0, stop: int | None = None) -> str:
    """Do what checksum_file does with a file that is open."""
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
