"""Pictures in uncompressed tar archives, with labels in WebDataset's convention.

The standard library's tarfile reads the headers one at a time in constant memory; nothing is extracted to disk.
Only the byte offset of a picture in its archive is recorded; the picture is read later.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.base import ROWS, Chunk, Row, chunked, is_picture_name, without_dot
from featstore.sources.folder import ignored_files_message, is_archive_name, walk
from featstore.sources.layout import LAYOUTS, Layout, ordinal
from featstore.sources.reading import BLOCK, member_header
from featstore.sources.samples import (
    SIDECARS,
    Member,
    Sidecars,
    closest,
    duplicate_member_message,
    ending_of,
    labels_of,
    read_text,
    sample_of,
)
from featstore.sources.tally import Tally
from featstore.text import counted, shown

METADATA: Final = ["txt", "json"]
_GROUP_LIMIT: Final = 10_000
_SCATTERED_LIMIT: Final = 2_000_000
"""Largest number of label files to keep in memory (about 300 bytes each), if they are not next to their pictures."""
_HEADER_LIMIT: Final = 16 << 20
_COMPRESSED: Final = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ\x00": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class _Headers(io.FileIO):
    """An archive file from which tarfile reads headers. Reads of more than 16 MiB fail, to bound memory."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


def compressed_message(path: str | bytes | os.PathLike[str], command: str) -> str:
    """Return the error message for a compressed archive. It advises to decompress the archive with ``command``."""
    return (
        f"{shown(path)}: is compressed; decompress it first ({command}): pictures are read by their place in the archive, "
        "and from a compressed one each picture would cost reading all before it"
    )


def decompress_command(start: bytes) -> str | None:
    """Return the command that decompresses a file that starts with ``start``; None if it is not compressed."""
    return next((command for magic, command in _COMPRESSED.items() if start.startswith(magic)), None)


def members(file: io.FileIO) -> Iterator[Member]:
    """Yield all members of an archive except directories, in archive order, in constant memory.

    Raises tarfile.ReadError if a header is invalid, if a member extends beyond the end of the file, or if anything
    follows the end-of-archive marker.
    """
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        at = -1
        while (info := archive.next()) is not None:
            # tarfile keeps every member in a list (unbounded memory), and loops forever if a member has a negative
            # size.
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
    # tarfile takes a damaged or missing header for the end of the archive. So check that the archive really ends here;
    # otherwise the rest would be lost silently.
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
    """Adjacent members of one WebDataset sample: their paths are equal up to the first dot of the file name.

    ``sidecars``: members with labels and texts. ``used``: those members of ``sidecars`` that belong to a picture. A
    sample with very many pictures is divided into several groups. ``streamed``: this group is not the first of its
    sample. ``whole``: this group is the last of its sample.
    """

    name: bytes
    pictures: list[Member] = field(default_factory=list)
    sidecars: Sidecars = field(default_factory=dict)
    used: set[Member] = field(default_factory=set)
    streamed: bool = False
    whole: bool = True


class TarSource:
    """The pictures in a tar archive, or in all .tar archives below a folder, sorted by the bytes of their paths.

    Keys are ``<archive>/<member>``: the archive's path relative to ``root`` (default: its folder), and the member's
    name without a leading ``./``. The location of a picture is the path of its archive; its offset is where the
    member's data starts. An archive outside ``root`` has its file name in the keys and its absolute path as location.

    Labels follow WebDataset: members with equal paths up to the first dot of the file name are one sample. The file
    ``.cls`` of a sample (text or an integer) is the label of its pictures. The file ``.json`` may have a label and a
    split, in the fields ``label_column`` and ``split_column``, by default in fields with the usual names of table
    columns. The texts of ``.json`` and ``.txt`` are the metadata ``json`` and ``txt``. If names have several dots, the
    file with the longest common name belongs to a picture: to v1.0.jpg belongs v1.0.cls and not v1.cls. The members of
    a sample need not be adjacent in the archive; if they are not, the positions of all label files are kept in memory.
    ``layout``: meaning of the members' folders, for pictures without a label or split in these files; see FolderSource.

    Inputs are members with the extension of a picture (``all_files``: all members except .cls, .json and .txt). Links,
    devices, sparse files and members with absolute names or ``..`` are never read; they are inputs of size -1, reported
    as failures. Members with hidden names are skipped.

    Raises UsageError for a compressed archive. ``chunks`` raises FeatstoreError for a damaged, truncated or
    concatenated archive, so that its last pictures are not lost silently.
    """

    kind: str = "tar"

    def __init__(
        self,
        path: Path,
        *,
        root: Path | None = None,
        all_files: bool = False,
        layout: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
    ) -> None:
        if layout is not None and layout not in LAYOUTS:
            raise UsageError(f"there is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
        self._path = Path(os.path.abspath(path))
        self.location = str(self._path)
        default = self._path if self._path.is_dir() else self._path.parent
        self.root = Path(os.path.abspath(root)) if root is not None else default
        self.notes: list[str] = []
        self.layout = layout
        self._layout = Layout.of(layout or "none")
        self._label_name, self._split_name = label_column, split_column
        self.ignored, self.read_as, self.unfound = 0, "", ""
        self._all_files = all_files
        self._folder, self._unused = b"", 0
        if not self._path.is_dir():
            self._open(os.fsencode(self._path)).close()

    def describe(self) -> dict[str, Any]:
        """Return kind, location and root folder of the archives, as JSON types."""
        return {"kind": self.kind, "location": self.location, "root": str(self.root)}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all pictures; see Source.chunks. Raises UsageError if there is no picture or a label is invalid."""
        tally = Tally()
        yield from tally.watch(chunked(self._rows(), rows, METADATA))
        if not tally.rows:
            raise UsageError(f"{shown(self.location)}: holds no pictures{ignored_files_message(self.ignored)}")
        folders = f" or the {ordinal(self._layout.label)} folder" if self._layout.label is not None else ""
        splits = f" or the {ordinal(self._layout.split)} folder" if self._layout.split is not None else ""
        self.read_as = tally.line(
            f".cls, .json{folders} (--label-column, --layout change it)", f".json{splits}", "columns json, txt"
        )
        self.notes = tally.notes("--layout" if self.layout else "--label-column")
        if not tally.classes and self._folder and self.layout is None:
            self.notes.append(
                f"no picture has a label; they lie in folders such as {shown(self._folder)}, which --layout class (or "
                "split/class) makes the classes"
            )
        if self._unused:
            self.notes.append(f"{counted(self._unused, '.cls file belongs', '.cls files belong')} to no picture")

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
        command = decompress_command(os.pread(file.fileno(), 8, 0))
        if command is not None:
            file.close()
            raise UsageError(compressed_message(path, command))
        return file

    def _rows(self) -> Iterator[Row]:
        self.ignored = self._unused = 0
        root = os.fsencode(self.root).rstrip(b"/") + b"/"
        for path in self._archives():
            inside = path.startswith(root)
            location = path[len(root) :] if inside else path
            prefix = (location if inside else os.path.basename(path)) + b"/"
            with self._open(path) as file:
                try:
                    everywhere = self._scattered_sidecars(path, file)
                    used: set[Member] = set()
                    for group in self._groups(path, file):
                        if everywhere is not None:
                            group = replace(group, sidecars=everywhere, used=used)
                        yield from self._rows_of(group, path, file, (prefix, location))
                        if everywhere is None and group.whole:
                            self._count_unused(group.sidecars, group.used)
                    if everywhere is not None:
                        self._count_unused(everywhere, used)
                except (tarfile.TarError, OSError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
                    reason = shown(str(error).partition("\n")[0]) or type(error).__name__
                    message = f"{shown(path)}: is no whole tar archive ({reason}); replace it by an intact copy"
                    raise FeatstoreError(message) from None

    def _count_unused(self, sidecars: Sidecars, used: set[Member]) -> None:
        """Count as ignored the members in ``sidecars`` that are not in ``used``, because they belong to no picture."""
        left = [member for member in sidecars.values() if member not in used]
        self.ignored += len(left)
        self._unused += sum(ending_of(member.name)[1] == b"cls" for member in left)

    def _groups(self, path: bytes, file: io.FileIO, count: bool = True) -> Iterator[_Group]:
        """Yield the samples of an archive; a sample with very many pictures is divided into groups, to bound memory.

        ``count``: whether to count the ignored members in ``ignored``.
        """
        file.seek(0)
        group = _Group(b"")
        for member in members(file):
            sample, _ = sample_of(member.name)
            if sample != group.name:
                yield group
                group = _Group(sample)
            stem, extension = ending_of(member.name)
            if any(part.startswith(b".") for part in member.name.split(b"/") if part != b".."):
                self.ignored += count and is_picture_name(member.name)
            elif extension in SIDECARS:
                if (stem, extension) in group.sidecars:
                    raise UsageError(duplicate_member_message(path, member))
                group.sidecars[stem, extension] = member
            elif self._all_files or is_picture_name(member.name):
                group.pictures.append(member)
                if len(group.pictures) == _GROUP_LIMIT:
                    yield replace(group, whole=False)
                    group = _Group(sample, sidecars=group.sidecars, used=group.used, streamed=True)
            else:
                self.ignored += count
        yield group

    def _scattered_sidecars(self, path: bytes, file: io.FileIO) -> Sidecars | None:
        """Return all label files of an archive if one of them is not next to its pictures, otherwise None."""
        bare = alone = late = False
        known = 0
        for group in self._groups(path, file, count=False):
            bare |= bool(group.pictures) and not group.sidecars
            alone |= bool(group.sidecars) and not group.pictures and not group.streamed
            late |= group.streamed and len(group.sidecars) > known
            known = len(group.sidecars)
        if not (bare and alone) and not late:
            return None
        found: Sidecars = {}
        for group in self._groups(path, file, count=False):
            for place, member in group.sidecars.items():
                if found.setdefault(place, member) != member:
                    raise UsageError(duplicate_member_message(path, member))
            if len(found) > _SCATTERED_LIMIT:
                raise UsageError(
                    f"{shown(path)}: has more than {_SCATTERED_LIMIT:,} label files that do not stand beside their "
                    "pictures; make the archive anew with tar --sort=name"
                )
        return found

    def _rows_of(self, group: _Group, path: bytes, file: io.FileIO, names: tuple[bytes, bytes]) -> Iterator[Row]:
        """Yield a row for each picture in ``group``, a group of members of the archive ``path``.

        ``names``: the text that begins the keys of these pictures, and the location of the archive.
        """
        prefix, location = names
        texts: dict[Member, str] = {}
        for name, size, mtime, offset in group.pictures:
            own: dict[bytes, tuple[Member, str]] = {}
            for extension in SIDECARS:
                member = closest(name, extension, group.sidecars)
                if member is not None:
                    texts[member] = texts[member] if member in texts else read_text(path, file, member)
                    own[extension] = member, texts[member]
                    group.used.add(member)
            label, split = labels_of(path, own, self._label_name, self._split_name)
            by_folder = self._layout.of_path(name)
            self._folder = self._folder or name.rpartition(b"/")[0]
            metadata = tuple(own[extension][1] if extension in own else None for extension in (b"txt", b"json"))
            yield Row(
                prefix + name, size, mtime, offset, location, label or by_folder[0], split or by_folder[1], metadata
            )
