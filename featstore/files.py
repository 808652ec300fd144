"""Files that are either whole or not there: temporary name, sync, rename, sync of the directory."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from featstore.errors import DamagedError

TEMPORARY_SUFFIX = ".tmp"
_READ_BYTES = 4 << 20


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable (a rename is not, before this)."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(directory: Path) -> None:
    """Create ``directory`` and its missing parents durably; one that exists is left as it is."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


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
            handle = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        if exclusive:
            os.link(temporary, path)
        else:
            os.replace(temporary, path)
        if durable:
            sync_directory(path.parent)
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
    data = Path(path).read_bytes()
    try:
        value = json.loads(data)
        checksum = value.pop("checksum")
        whole = json.dumps({**value, "checksum": checksum}, indent=2, allow_nan=False).encode() + b"\n"
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: not a JSON file that featstore wrote ({error})") from None
    if whole != data or checksum != _checksum_text(value):
        raise DamagedError(f"{path}: its content does not match its checksum")
    return value


def checksum_file(path: Path, start: int = 0) -> str:
    """Return the XXH3-128 of ``path`` from byte ``start``, in hexadecimal, in constant memory."""
    digest = xxhash.xxh3_128()
    buffer = bytearray(_READ_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()
