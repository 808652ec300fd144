"""A list of paths, in a file or on standard input."""

from __future__ import annotations

import codecs
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from featstore.errors import FeatstoreError, UsageError
from featstore.files.signatures import SIGNATURE_BYTES, other_than_text
from featstore.sources.base import ROWS, Chunk, Row, chunked, without_dot
from featstore.sources.finding import Finder
from featstore.sources.tally import Tally
from featstore.text import shown

_SNIFFED: Final = 64 << 10
_BLOCK: Final = 1 << 20
_LONGEST: Final = 64 << 10
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def entries(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (number, path) for each entry of a list, from the start of the file, in constant memory.

    Entries end with NUL if the first 64 KiB contain a NUL (``find -print0``), otherwise with LF or CRLF. A UTF-8 byte
    order mark is skipped. Blank lines and empty entries are skipped, but count in the number. Raises UsageError for an
    entry that cannot be a path.
    """
    file.seek(0)
    separator = b"\0" if b"\0" in file.read(_SNIFFED) else b"\n"
    file.seek(0)
    for number, entry in enumerate(_split(file, separator), 1):
        if separator == b"\n":
            entry = entry.removesuffix(b"\r")
            entry = entry.removeprefix(_BYTE_ORDER_MARK) if number == 1 else entry
            if b"\0" in entry:
                raise UsageError(f"line {number} holds a NUL byte; is this a list of paths?")
            if not entry.strip():
                continue
        if entry:
            yield number, entry


def _split(file: BinaryIO, separator: bytes) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_BLOCK):
        *whole, rest = (rest + block).split(separator)
        yield from whole
        if len(rest) > _LONGEST:
            raise UsageError(f"an entry is longer than {_LONGEST:,} bytes; is this a list of paths?")
    if rest:
        yield rest


class ListSource:
    """The pictures in a list of paths, one path per entry (see entries).

    ``path`` None means standard input. Standard input or a FIFO is first copied to a temporary file, so that it can be
    read again. Relative paths are resolved against ``root`` (default: the list's folder; for standard input and FIFOs
    the current directory) and must not leave ``root``. The key of a picture is its path relative to ``root`` if it is
    below ``root``, otherwise the path as written, without a leading ``./``. Files are found with Finder.
    """

    kind: str = "list"

    def __init__(self, path: Path | None, *, root: Path | None = None) -> None:
        self.location = "-" if path is None else os.path.abspath(path)
        self._file = self.location
        self._spooled: Any = None
        default = Path.cwd()
        try:
            if path is None:
                self._spool(sys.stdin.buffer)
            elif stat.S_ISREG(os.stat(path).st_mode):
                default = Path(self.location).parent
            else:
                with open(path, "rb") as file:
                    self._spool(file)
            with open(self._file, "rb") as file:
                start = file.read(SIGNATURE_BYTES)
        except OSError as error:
            raise FeatstoreError(f"{self._name}: cannot be read ({error.strerror})") from None
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and b"\0" in start[2:4]:
            raise UsageError(f"{self._name}: is text in UTF-16, as PowerShell writes it; save the list as UTF-8")
        if what := other_than_text(start):
            raise UsageError(
                f"{self._name}: holds {what}, not a list of paths; save it to a file and name that, or list its path"
            )
        self.root = Path(os.path.abspath(root)) if root is not None else default
        self.notes: list[str] = []
        self.layout: str | None = None
        self.ignored, self.read_as, self.unfound = 0, "", ""

    def describe(self) -> dict[str, Any]:
        """Return kind, location and root folder of the list, as JSON types."""
        return {"kind": self.kind, "location": self.location, "root": str(self.root)}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all entries; see Source.chunks. Raises UsageError for an entry that cannot be a path."""
        tally, find = Tally(), Finder(os.fsencode(self.root))
        yield from tally.watch(chunked(self._rows(find), rows, []))
        if not tally.rows:
            raise UsageError(f"{self._name}: holds no pictures: the list names no path")
        self.read_as = "no classes, no splits: a list has none (featstore label gives them)"
        self.notes, self.unfound = find.notes(), find.unfound()

    @property
    def _name(self) -> str:
        return "standard input" if self.location == "-" else shown(self.location)

    def _rows(self, find: Finder) -> Iterator[Row]:
        root = os.fsencode(self.root)
        try:
            with open(self._file, "rb") as file:
                for number, path in entries(file):
                    key = relative_to(root, path)
                    if not key:
                        raise UsageError(f"entry {number} names the root itself, not a picture")
                    location, size, mtime = find(key)
                    yield Row(key, size, mtime, location=None if location == key else location)
        except UsageError as error:
            raise UsageError(f"{self._name}: {error}") from None
        except OSError as error:
            raise FeatstoreError(f"{self._name}: cannot be read ({error.strerror})") from None

    def _spool(self, file: BinaryIO) -> None:
        # The temporary file is deleted when this source object is deleted.
        self._spooled = tempfile.NamedTemporaryFile(prefix="featstore-list-")  # noqa: SIM115
        self._file = self._spooled.name
        shutil.copyfileobj(file, self._spooled)
        self._spooled.flush()


def relative_to(root: bytes, path: bytes) -> bytes:
    """Return ``path`` relative to ``root`` if it begins with ``root``, otherwise as written without ``./``."""
    prefix = root.rstrip(b"/") + b"/"
    if path.startswith(prefix) and b".." not in path.split(b"/"):
        return path[len(prefix) :].lstrip(b"/")
    return without_dot(path)
