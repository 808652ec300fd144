"""Find files whose names are spelled differently in a table or list than on disk; say why others are missing."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from featstore.sources.base import ADDRESS_HINT, ReadFailure, is_picture_name, without_dot
from featstore.sources.reading import resolve, stat_picture
from featstore.text import composed, counted, shown, to_text

_ADDRESS: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE: Final = re.compile(rb"[A-Za-z]:[\\/]|\\\\")
_ESCAPE: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_SEPARATOR: Final = re.compile(rb"[ \t,;|]+[^ \t,;|/]+$")
_FOLDERS: Final = 64
"""Number of folder listings to cache."""
_WRITTEN: Final = {
    "backslashes": "written with backslashes, as Windows does",
    "blanks": "written with blanks or quotes around",
    "address": "written as a file: address",
    "escapes": "written with the %-escapes of an address",
    "unicode": "written in another Unicode form (NFC or NFD) than the file's name",
}


def spellings(path: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (name of the difference, path) for each other spelling of ``path``.

    Each path has the changes of the paths before it too: a path with backslashes may also have surrounding blanks.
    """
    bare = path.strip().strip(b"\"'").strip()
    if bare != path:
        yield "blanks", bare
    if bare[:7].lower() == b"file://":
        bare = unquote_to_bytes(re.sub(rb"^(localhost)?(?=/)", b"", bare[7:]))
        yield "address", bare
    if b"\\" in bare and not _DRIVE.match(bare):
        bare = bare.replace(b"\\", b"/")
        yield "backslashes", bare
    if _ESCAPE.search(bare):
        yield "escapes", unquote_to_bytes(bare)


class Finder:
    """Find the pictures that a source names below ``root``, and count the differences in spelling.

    If a path does not exist as written, its other ``spellings`` and Unicode forms are tried, and matches are counted.
    A file that is not found becomes an input of size -1, and the likely reason is counted.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._written: Counter[str] = Counter()
        self._causes: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._names: dict[tuple[bytes, str], dict[str, bytes | None]] = {}

    def __call__(self, path: bytes) -> tuple[bytes, int, int]:
        """Return path, size and mtime (ns) of the picture at ``path``; size and mtime are -1 if no file is found."""
        size, mtime = stat_picture(self._root, path)
        if mtime != -1:
            return path, size, mtime
        for how, other in ("", path), *spellings(path):
            ways = [(how, without_dot(other))] if how else []
            listed = self._listed(other, "unicode")
            ways += [("unicode", listed)] if listed is not None else []
            for name, candidate in ways:
                size, mtime = stat_picture(self._root, candidate)
                if mtime != -1:
                    self._count(self._written, name, path)
                    return candidate, size, mtime
        if not self._there(path):
            self._count(self._causes, self._cause(path), path)
        return path, -1, -1

    def notes(self) -> list[str]:
        """Return notes on the paths that were found only in another spelling."""
        return [
            f"{counted(count, 'path is', 'paths are')} {_WRITTEN[how]}; found all the same (the first: {self._first[how]})"
            for how, count in self._written.items()
        ]

    def unfound(self) -> str:
        """Return the likely reasons why files are missing, guessed from the names; "" if unknown."""
        told = [
            f"{cause} ({counted(count, 'path')}, the first: {self._first[cause]})"
            for cause, count in self._causes.most_common()
            if cause
        ]
        return "; ".join(told)

    def _count(self, among: Counter[str], what: str, path: bytes) -> None:
        among[what] += 1
        self._first.setdefault(what, shown(path))

    def _there(self, path: bytes) -> bool:
        """Return whether ``path`` exists, even as a directory or device. If so, no other spelling has to be tried."""
        try:
            return os.path.lexists(resolve(self._root, path))
        except (ReadFailure, ValueError):
            return True

    def _cause(self, path: bytes) -> str:
        if _ADDRESS.match(path):
            return ADDRESS_HINT
        if _DRIVE.match(path):
            return "paths of a Windows drive are not here: write them relative to a folder, and name it with --root"
        if path[:1] in (b"{", b"["):
            return "the lines are JSON: save them as a CSV table, with the first line path,label"
        if path[:1] in (b"~", b"$"):
            return "~ and $ are not replaced here, as a shell does: write the whole path"
        label = _SEPARATOR.search(path)
        if label and stat_picture(self._root, path[: label.start()])[1] != -1:
            return "something follows the path, such as a label: save the list as CSV, with the first line path,label"
        if self._listed(path, "case") is not None:
            return "the file's name differs in upper and lower case: write the path as the file is called"
        if not is_picture_name(path) and (ending := self._ending(path)):
            return f"the file's name has an ending, {ending}: add it to the paths"
        return ""

    def _ending(self, path: bytes) -> str:
        found = (self._listed(path + b"." + each, "case") for each in (b"jpg", b"png", b"jpeg"))
        name = next((each for each in found if each is not None), None)
        return "" if name is None else to_text(os.path.splitext(name)[1])

    def _listed(self, path: bytes, how: str) -> bytes | None:
        """Return the existing path that differs from ``path`` only in Unicode form.

        If ``how`` is "case", upper and lower case may also differ. Returns None if there is no such path, or more than
        one.
        """
        if how == "unicode" and path.isascii():
            return None
        try:
            whole = resolve(self._root, path)
        except ReadFailure:
            return None
        at, parts = b"/", whole.split(b"/")
        if b"\0" in whole or b".." in parts:
            return None
        for part in filter(None, parts):
            name: bytes | None = part
            if not os.path.lexists(os.path.join(at, part)):
                name = self._folder(at, how).get(_form(part, how))
            if name is None:
                return None
            at = os.path.join(at, name)
        return at if path.startswith(b"/") else os.path.relpath(at, self._root)

    def _folder(self, folder: bytes, how: str) -> dict[str, bytes | None]:
        """Return the file names in ``folder`` by their normalised form (``how``); None if several names have the same
        form."""
        if (folder, how) not in self._names:
            if len(self._names) >= _FOLDERS:
                del self._names[next(iter(self._names))]
            names: dict[str, bytes | None] = {}
            try:
                for name in os.listdir(folder):
                    form = _form(name, how)
                    names[form] = None if form in names else name
            except OSError:
                pass
            self._names[folder, how] = names
        return self._names[folder, how]


def _form(name: bytes, how: str) -> str:
    text = composed(to_text(name))
    return text.casefold() if how == "case" else text
