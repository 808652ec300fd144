"""Resumable downloads with HTTP ranges, retries, and a SHA-256 check of the finished file."""

from __future__ import annotations

import hashlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final

from featstore import __version__, defaults
from featstore.datasets.registry import Archive
from featstore.errors import DamagedError, FeatstoreError
from featstore.files import atomic
from featstore.text import shown

_READ_BYTES: Final = 1 << 20
_PARTIAL_CONTENT: Final = 206
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERRORS: Final = 500
_BROKEN: Final = (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError)


def download(archive: Archive, file: Path, progress: Callable[[int], None]) -> None:
    """Download ``archive`` to ``file``; the file appears only when it is complete and has the right SHA-256.

    Received bytes are kept beside ``file`` as ``<name>.part``. A later call continues after these bytes if the server
    supports ranges, otherwise from the start. A broken connection is reopened, at most defaults.DOWNLOAD_ATTEMPTS times
    in a row without a new byte. An existing ``file`` is not downloaded again; only its SHA-256 is checked.
    ``progress`` is called with the number of bytes received.

    Raises DamagedError if the SHA-256 of ``file`` or of the downloaded bytes is wrong, FeatstoreError if the server
    cannot be reached.
    """
    if file.exists():
        if _sha256(file) == archive.sha256:
            progress(archive.size)
            return
        raise DamagedError(
            f"{file}: not the published file (its SHA-256 is not {archive.sha256}); delete it and run again"
        )
    part = file.with_name(file.name + ".part")
    resumed = _receive(archive, part, progress)
    found = _sha256(part)
    if found != archive.sha256 and resumed:
        # The bytes that an earlier call received may be from another version of the file: download the file from the
        # beginning.
        part.unlink()
        _receive(archive, part, progress)
        found = _sha256(part)
    if found != archive.sha256:
        part.unlink()
        raise DamagedError(
            f"{archive.url}: not the published file (SHA-256 {found} instead of {archive.sha256}); it was not kept: "
            f"run again, or look at its home page for what has changed"
        )
    atomic.sync(part)
    part.replace(file)
    atomic.sync(file.parent)


def _receive(archive: Archive, part: Path, progress: Callable[[int], None]) -> bool:
    """Download the bytes of ``archive`` that the file ``part`` lacks; return whether ``part`` had bytes from an earlier
    call."""
    resumed = part.exists() and 0 < part.stat().st_size <= archive.size
    if not resumed:
        part.write_bytes(b"")
    have = part.stat().st_size
    progress(have)
    attempts = 0
    while have < archive.size:
        before = have
        try:
            _append(archive, part, have, progress)
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code < _SERVER_ERRORS and error.code != _TOO_MANY_REQUESTS:
                raise _unreachable(archive, part, reason) from None
        except _BROKEN as error:
            # The error may contain text sent by the server, so escape it.
            reason = shown(str(getattr(error, "reason", None) or error) or type(error).__name__)
        have = part.stat().st_size
        attempts = 0 if have > before else attempts + 1
        if attempts >= defaults.DOWNLOAD_ATTEMPTS:
            raise _unreachable(archive, part, reason)
        if have < archive.size:
            time.sleep(defaults.DOWNLOAD_PAUSE * 2**attempts)
    return resumed


def _append(archive: Archive, part: Path, have: int, progress: Callable[[int], None]) -> None:
    """Open one connection, and append the received bytes of the archive to ``part``, which already has ``have``
    bytes."""
    headers = {"User-Agent": f"featstore/{__version__}"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(archive.url, headers=headers)
    with urllib.request.urlopen(request, timeout=defaults.DOWNLOAD_TIMEOUT) as answer:
        start, total = _extent(answer, have)
        if total is not None and total != archive.size:
            raise DamagedError(
                f"{archive.url}: not the published file ({total:,} bytes instead of {archive.size:,}); "
                "look at its home page for what has changed"
            )
        if start not in (0, have):
            raise http.client.HTTPException(f"an answer from byte {start:,} on instead of {have:,}")
        with open(part, "r+b") as stream:
            # A server without range support sends the file from byte 0 on, so start is 0.
            stream.truncate(start)
            stream.seek(start)
            left = archive.size - start
            while left and (block := answer.read1(min(_READ_BYTES, left))):
                stream.write(block)
                left -= len(block)
                progress(archive.size - left)


def _extent(answer: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Return, from a server's ``answer``, the offset of the first byte that it sends and the file's size (None:
    unknown)."""
    if answer.status == _PARTIAL_CONTENT:
        match = re.fullmatch(
            r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", answer.headers.get("Content-Range", "").strip()
        )
        if match is None:
            return have, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _unreachable(archive: Archive, part: Path, reason: str) -> FeatstoreError:
    have = part.stat().st_size
    return FeatstoreError(
        f"{archive.url}: cannot be downloaded ({reason}; {have:,} of {archive.size:,} bytes are here); run the same "
        f"command again to go on, or put the file into {part.parent} yourself"
    )


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
