"""Unpack untrusted archives safely: only regular files, only below one folder, only up to a size limit."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

from featstore import defaults
from featstore.errors import DamagedError
from featstore.text import shown

_COPY_BYTES: Final = 1 << 20
_TAR_PADDING: Final = 1 << 20
_ENCRYPTED: Final = 0x1
_READ_ERRORS: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
)


def unpack(archive: Path, inside: str, target: Path) -> int:
    """Unpack the files below the folder ``inside`` of a .zip, .tgz or .tar.gz into ``target``; return their number.

    ``target`` is a folder of the caller; missing parents are made, and existing files are never replaced. Other members
    of the archive are skipped. Modes, owners and times are not restored.

    Raises DamagedError if a name leads out of the archive or occurs twice, or if a member is a link, a device or
    encrypted. Raises DamagedError also if the content has more than defaults.UNPACKED_RATIO times the archive's size or
    more than defaults.UNPACKED_FILES files, or if the archive is unreadable or has nothing below ``inside``. Files
    unpacked before the error are not removed.
    """
    members = _zip_members if archive.suffix == ".zip" else _tar_members
    budget = _Budget(archive, defaults.UNPACKED_RATIO * archive.stat().st_size)
    count = 0
    try:
        for name, content in members(archive, budget):
            path = _place(archive, name).parts
            if path[0] != inside or len(path) < 2:
                continue
            place = target.joinpath(*path[1:])
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(content, place, budget)
            count += 1
    except _READ_ERRORS as error:
        raise DamagedError(f"{archive}: cannot be unpacked ({error}); delete it and run again") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DamagedError(f"{archive}: has the name {shown(error.filename)} twice; it is not unpacked") from None
    if not count:
        raise DamagedError(f"{archive}: has no files in a folder {inside}; it is not unpacked")
    return count


class _Budget:
    """Remaining budget for unpacking an archive, in bytes and files."""

    def __init__(self, archive: Path, size: int) -> None:
        self.archive, self.left, self.files = archive, size, defaults.UNPACKED_FILES

    def take(self, size: int) -> None:
        """Subtract ``size`` bytes from the budget for unpacking; raise DamagedError if none are left."""
        self.left -= size
        if self.left < 0:
            raise DamagedError(
                f"{self.archive}: unpacks to more than {defaults.UNPACKED_RATIO} times its size; it is not unpacked"
            )

    def take_file(self) -> None:
        """Count one file of the archive; raise DamagedError if there are too many."""
        self.files -= 1
        if self.files < 0:
            raise DamagedError(f"{self.archive}: has more than {defaults.UNPACKED_FILES:,} files; it is not unpacked")


def _place(archive: Path, name: str) -> PurePosixPath:
    """Return the archive member ``name`` as a path; raise DamagedError if the path leaves the target folder."""
    parts = name.removesuffix("/").split("/")
    if parts[0] == ".":
        parts = parts[1:]
    if not parts or {"", ".", ".."} & set(parts) or any(c in name for c in "\\\0") or ":" in parts[0]:
        raise DamagedError(f"{archive}: has the unsafe name {shown(name)}; it is not unpacked")
    return PurePosixPath(*parts)


def _refuse(archive: Path, name: str, what: str) -> DamagedError:
    return DamagedError(f"{archive}: {shown(name)} is {what}; it is not unpacked")


def _zip_members(archive: Path, budget: _Budget) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield (name, content) of the files of a ZIP archive."""
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            budget.take_file()
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refuse(archive, entry.filename, "a link or a device")
            if entry.flag_bits & _ENCRYPTED:
                raise _refuse(archive, entry.filename, "encrypted")
            if entry.is_dir():
                continue
            with opened.open(entry) as content:
                yield entry.orig_filename, content


class _Counted(io.RawIOBase):
    """A decompressed stream that counts every byte against a budget, including the bytes of skipped members."""

    def __init__(self, stream: gzip.GzipFile, budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._stream.read(-1 if size is None else size)
        self._budget.take(len(data))
        return data


def _tar_members(archive: Path, budget: _Budget) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield (name, content) of the files of a gzip-compressed tar archive, read once from start to end."""
    # The whole stream, with tar headers and padding, gets a larger budget than the unpacked files, which are counted
    # against ``budget``.
    stream_budget = _Budget(archive, 2 * budget.left + _TAR_PADDING)
    with gzip.open(archive) as plain:
        stream = _Counted(plain, stream_budget)
        opened = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115
        for entry in opened:
            budget.take_file()
            if entry.isdir():
                continue
            content = None if entry.issparse() or not entry.isreg() else opened.extractfile(entry)
            if content is None:
                raise _refuse(archive, entry.name, "a link or a device")
            yield entry.name, content
        # tarfile stops at the end marker of the archive or at a damaged header. Read the rest too, so that gzip checks
        # the checksum at the end of the file.
        while stream.read(_COPY_BYTES):
            pass


def _copy(content: IO[bytes], place: Path, budget: _Budget) -> None:
    with open(place, "xb") as file:
        while block := content.read(_COPY_BYTES):
            budget.take(len(block))
            file.write(block)


def folder_extent(folder: Path) -> tuple[int, int]:
    """Return (number of files, bytes) below ``folder``; links are not followed."""
    count = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            count += 1
            size += os.lstat(os.path.join(place, name)).st_size
    return count, size
