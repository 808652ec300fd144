"""Pictures inside uncompressed tar archives, with the labels that WebDataset keeps beside them.

The headers are read by the standard library's tarfile, one at a time and in constant memory; nothing is ever
extracted. A picture is a position in its archive, where it is read later.
"""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.base import ROWS, Chunk, Row, chunked, is_picture_name, label_text, shown, without_dot
from featstore.sources.folder import is_archive_name, others_ignored, walk
from featstore.sources.reading import BLOCK, member_header

METADATA: Final = ["txt", "json"]
_SIDECARS: Final = (b"cls", b"json", b"txt")
_SIDECAR_LIMIT: Final = 16 << 20
_GROUP_LIMIT: Final = 10_000
_HEADER_LIMIT: Final = 16 << 20
_COMPRESSED: Final = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\x00": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class Member(NamedTuple):
    """A member: ``size`` is -1 where it is no plain file with a plain name; ``offset`` is where its data begin."""

    name: bytes
    size: int
    mtime: int
    offset: int


class _Headers(io.FileIO):
    """An archive from which tarfile reads headers only: a header that claims to be huge takes no memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


def decompressor(start: bytes) -> str | None:
    """Return the command that decompresses a file which begins with ``start``; None where it is not compressed."""
    return next((command for magic, command in _COMPRESSED.items() if start.startswith(magic)), None)


def members(file: io.FileIO) -> Iterator[Member]:
    """Yield all members of an archive but its directories, in its order, in constant memory.

    Raises tarfile.ReadError unless every header is sound, every member lies wholly inside the file, and the
    end-of-archive marker is followed by nothing else.
    """
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        at = -1
        while (info := archive.next()) is not None:
            # tarfile keeps every member and follows negative sizes backwards: both without an end.
            archive.members = []  # type: ignore[attr-defined]
            if info.offset <= at or info.size < 0 or archive.offset < info.offset_data:
                raise tarfile.ReadError(f"a member of impossible size at byte {info.offset:,}")
            at = info.offset
            if not info.isdir():
                yield _member(file, info)
        end: int = archive.offset
    _require_end(file.fileno(), end)


def _member(file: io.FileIO, info: tarfile.TarInfo) -> Member:
    name = info.name.encode("utf-8", "surrogateescape")
    header = member_header(os.pread(file.fileno(), BLOCK, info.offset_data - BLOCK))
    plain = info.isreg() and not info.issparse() and header is not None and header[0] == info.size
    safe = not name.startswith(b"/") and b".." not in name.split(b"/")
    return Member(without_dot(name), info.size if plain and safe else -1, header[1] if header else -1, info.offset_data)


def _require_end(handle: int, end: int) -> None:
    # tarfile takes a damaged header, or none, for the end; what was cut off or joined on would be lost unnoticed.
    at = end
    while block := os.pread(handle, 1 << 20, at):
        if block.count(0) != len(block):
            what = "a damaged header" if at == end and any(block[:BLOCK]) else "data after the end-of-archive marker"
            raise tarfile.ReadError(f"{what} from byte {at:,} on")
        at += len(block)
    if at - end < BLOCK:
        raise tarfile.ReadError("the end-of-archive marker is missing")


@dataclass
class _Group:
    """What shares a name up to the first dot of its last part: one sample of WebDataset."""

    name: bytes
    pictures: list[Member] = field(default_factory=list)
    sidecars: dict[bytes, Member] = field(default_factory=dict)
    streamed: bool = False


class TarSource:
    """The pictures in a tar archive, or in all .tar archives under a folder in order of their paths' bytes.

    Keys are ``<archive>/<member>``: the archive's path relative to ``root`` (default: its folder) and the
    member's name without a leading ``./``; locations are the archives, offsets the members' data. An archive
    outside ``root`` has its file name in the keys and its absolute path as location.

    Labels follow WebDataset: members that stand together and share their path up to the first dot of the file
    name are one sample. ``.cls`` (text or an integer) is its pictures' label; ``.json`` may give ``label`` or
    ``class`` and ``split``; the texts of ``.json`` and ``.txt`` are the metadata ``json`` and ``txt``.
    Inputs are members with a picture's ending (``all_files``: all but those three). Links, devices, sparse
    files and members with absolute names or ``..`` are never followed: they are inputs of size -1, to be
    reported as failures. Hidden names are passed over.
    Raises UsageError for a compressed archive, FeatstoreError (from ``chunks``) for one that is damaged, cut
    short or joined from several, before its last pictures could be lost unnoticed.
    """

    kind: str = "tar"

    def __init__(self, path: Path, *, root: Path | None = None, all_files: bool = False) -> None:
        self._path = Path(os.path.abspath(path))
        self.location = str(self._path)
        default = self._path if self._path.is_dir() else self._path.parent
        self.root = Path(os.path.abspath(root)) if root is not None else default
        self.notes: list[str] = []
        self.layout: str | None = None
        self.ignored = 0
        self._all_files = all_files
        if not self._path.is_dir():
            self._open(os.fsencode(self._path)).close()

    def describe(self) -> dict[str, Any]:
        """Return kind, location and root as JSON."""
        return {"kind": self.kind, "location": self.location, "root": str(self.root)}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all pictures; see Source.chunks. Raises UsageError where there is none."""
        empty = True
        for chunk in chunked(self._rows(), rows, METADATA):
            empty = False
            yield chunk
        if empty:
            raise UsageError(f"{shown(self.location)}: holds no pictures{others_ignored(self.ignored)}")

    def _archives(self) -> Iterator[bytes]:
        path = os.fsencode(self._path)
        if not self._path.is_dir():
            yield path
            return
        for found in walk(self._path):
            if is_archive_name(found):
                yield os.path.join(path, found.path)

    def _open(self, path: bytes) -> _Headers:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise UsageError(f"{shown(path)}: is no file; an archive must be one, to be read by position")
            file = _Headers(path)
        except OSError as error:
            raise FeatstoreError(f"{shown(path)}: cannot be read ({error.strerror})") from None
        command = decompressor(os.pread(file.fileno(), 8, 0))
        if command is not None:
            file.close()
            raise UsageError(f"{shown(path)}: is compressed; decompress it first ({command}), then name the .tar")
        return file

    def _rows(self) -> Iterator[Row]:
        self.ignored = 0
        root = os.fsencode(self.root).rstrip(b"/") + b"/"
        for path in self._archives():
            inside = path.startswith(root)
            location = path[len(root) :] if inside else path
            prefix = (location if inside else os.path.basename(path)) + b"/"
            with self._open(path) as file:
                try:
                    for group in self._groups(path, file):
                        yield from _rows_of(group, path, file, prefix, location)
                except (tarfile.TarError, OSError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
                    reason = shown(str(error).partition("\n")[0]) or type(error).__name__
                    message = f"{shown(path)}: is no whole tar archive ({reason}); replace it by an intact copy"
                    raise FeatstoreError(message) from None

    def _groups(self, path: bytes, file: io.FileIO) -> Iterator[_Group]:
        """Yield samples; one with very many pictures comes in parts, so that memory stays bounded."""
        group = _Group(b"")
        for member in members(file):
            name, extension = sample_of(member.name)
            if name != group.name:
                yield self._done(group)
                group = _Group(name)
            if any(part.startswith(b".") for part in member.name.split(b"/") if part != b".."):
                self.ignored += is_picture_name(member.name)
            elif extension in _SIDECARS:
                if group.streamed:
                    where = f"{shown(path)}: {shown(member.name)}"
                    raise UsageError(f"{where} comes after {_GROUP_LIMIT:,} pictures of its sample; rename them")
                if extension in group.sidecars:
                    where = f"{shown(path)}: {shown(member.name)}"
                    raise UsageError(f"{where} is the second .{shown(extension)} of its sample; make the archive anew")
                group.sidecars[extension] = member
            elif self._all_files or is_picture_name(member.name):
                group.pictures.append(member)
                if len(group.pictures) == _GROUP_LIMIT:
                    yield group
                    group.pictures = []
                    group.streamed = True
            else:
                self.ignored += 1
        yield self._done(group)

    def _done(self, group: _Group) -> _Group:
        if not group.pictures and not group.streamed:
            self.ignored += len(group.sidecars)
        return group


def sample_of(name: bytes) -> tuple[bytes, bytes]:
    """Return the sample that a member belongs to and its extension in lower case (WebDataset's convention)."""
    directory, slash, file = name.rpartition(b"/")
    stem, _, extension = file.partition(b".")
    return directory + slash + stem, extension.lower()


def _rows_of(group: _Group, path: bytes, file: io.FileIO, prefix: bytes, location: bytes) -> Iterator[Row]:
    if not group.pictures:
        return
    texts = {extension: _text(path, file, member) for extension, member in group.sidecars.items()}
    value = _json(path, group.sidecars[b"json"], texts[b"json"]) if b"json" in texts else {}
    label = label_text(texts.get(b"cls", "").strip()) or label_text(value.get("label", value.get("class")))
    split = label_text(value.get("split"))
    metadata = (texts.get(b"txt"), texts.get(b"json"))
    for name, size, mtime, offset in group.pictures:
        yield Row(prefix + name, size, mtime, offset, location, label, split, metadata)


def _text(path: bytes, file: io.FileIO, member: Member) -> str:
    if not 0 <= member.size <= _SIDECAR_LIMIT:
        where = f"{shown(path)}: {shown(member.name)}"
        raise UsageError(f"{where} is no plain file of at most {_SIDECAR_LIMIT:,} bytes; make the archive anew")
    return os.fsdecode(os.pread(file.fileno(), member.size, member.offset))


def _json(path: bytes, member: Member, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"{shown(path)}: {shown(member.name)}"
        raise UsageError(f"{where} is no JSON ({error}); mend it or leave it out") from None
    return value if isinstance(value, dict) else {}
