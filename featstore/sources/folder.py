"""A folder of pictures, walked in an order that no file system decides."""

from __future__ import annotations

import errno
import functools
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.base import ROWS, Chunk, Row, chunked, is_picture_name, shown, size_and_mtime
from featstore.text import counted

LAYOUTS: Final = ("split/class", "class", "split", "flat", "none")
SPLIT_NAMES: Final = frozenset(b"train training val valid validation test testing dev eval holdout".split())
_NOTHING_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Found(NamedTuple):
    """A name in a folder: ``path`` relative to the folder; ``hidden``: its last part begins with a dot.

    ``picture``: it is no hidden one, and ends as pictures do.
    """

    path: bytes
    entry: os.DirEntry[bytes]
    hidden: bool
    picture: bool


class _Level(NamedTuple):
    prefix: bytes
    identity: tuple[int, int]
    entries: Iterator[os.DirEntry[bytes]]
    entry: os.DirEntry[bytes] | None
    pictures_before: int


def walk(folder: Path, only: bytes | None = None) -> Iterator[Found]:
    """Yield everything under ``folder`` that is no directory, each directory's entries in order of their bytes.

    Memory is bounded by the largest directory, not by the tree. Links are followed; a directory that is among
    its own ancestors (by device and inode) is not entered, so that loops end. Hidden directories are not
    entered. A directory with a picture's name in which no picture is found is yielded itself, for whoever
    named it so expects it to be accounted for. ``only``: walk just this entry of ``folder``.
    Raises UsageError where a directory may not be listed, FeatstoreError where one cannot be.
    """
    pictures = 0
    stack = [_enter(os.fsencode(folder), b"", None, 0, only)]
    while stack:
        level = stack[-1]
        entry = next(level.entries, None)
        if entry is None:
            stack.pop()
            if level.entry is not None and level.pictures_before == pictures and is_picture_name(level.entry.name):
                pictures += 1
                yield Found(level.prefix[:-1], level.entry, False, True)
            continue
        path = level.prefix + entry.name
        hidden = entry.name.startswith(b".")
        if not _is_directory(entry):
            picture = not hidden and is_picture_name(entry.name)
            pictures += picture
            yield Found(path, entry, hidden, picture)
        elif not hidden:
            below = _enter(entry.path, path + b"/", entry, pictures, None)
            if any(below.identity == ancestor.identity for ancestor in stack):
                below = below._replace(entries=iter(()))
            stack.append(below)


def _is_directory(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # A name that may hide a directory of pictures must not be passed over; a picture fails when it is read.
        if error.errno in _NOTHING_THERE or is_picture_name(entry.name):
            return False
        raise _cannot_list(entry.path, error) from None


def _enter(path: bytes, prefix: bytes, entry: os.DirEntry[bytes] | None, pictures: int, only: bytes | None) -> _Level:
    try:
        status = os.stat(path)
        with os.scandir(path) as found:
            entries = sorted((e for e in found if only is None or e.name == only), key=operator.attrgetter("name"))
    except OSError as error:
        raise _cannot_list(path, error) from None
    return _Level(prefix, (status.st_dev, status.st_ino), iter(entries), entry, pictures)


def _cannot_list(path: bytes, error: OSError) -> FeatstoreError:
    if isinstance(error, PermissionError):
        return UsageError(f"{shown(path)}: cannot be listed ({error.strerror}); grant access to it or move it away")
    return FeatstoreError(f"{shown(path)}: cannot be listed ({error.strerror}); check the disk and run again")


def is_taken(found: Found, all_files: bool) -> bool:
    """Tell whether a name is an input: not hidden, and a picture's name unless ``all_files``."""
    return found.picture or (all_files and not found.hidden)


def holds_archives_only(folder: Path, all_files: bool) -> bool:
    """Tell whether ``folder`` holds .tar archives and no pictures (with ``all_files``: no other files)."""
    archives = False
    for found in walk(folder):
        if is_archive_name(found):
            archives = True
        elif is_taken(found, all_files):
            return False
    return archives


def is_archive_name(found: Found) -> bool:
    """Tell whether a name is that of a tar archive which is not hidden."""
    return not found.hidden and found.entry.name.lower().endswith(b".tar")


def detect_layout(folder: Path, all_files: bool) -> tuple[str, list[str]]:
    """Return the layout of ``folder`` by the rules that FolderSource documents, and what may surprise about it."""
    level = _enter(os.fsencode(folder), b"", None, 0, None)
    directories, picture = [], None
    for entry in level.entries:
        hidden = entry.name.startswith(b".")
        if _is_directory(entry):
            directories += [] if hidden else [entry.name]
        elif picture is None and not hidden and (all_files or is_picture_name(entry.name)):
            picture = entry.name
    if picture is not None:
        below = next((name for name in directories if _holds_input(folder, name, all_files)), None)
        return "flat", [] if below is None else [
            f"{shown(picture)} lies directly in the folder, so folders such as {shown(below)} are no classes "
            "(--layout class makes them)"
        ]
    splits = [name for name in directories if name.lower() in SPLIT_NAMES]
    others = [name for name in directories if name.lower() not in SPLIT_NAMES]
    if not directories:
        return "flat", []
    other = next((name for name in others if _holds_input(folder, name, all_files)), None) if splits else None
    if splits and other is None:
        return "split/class", []
    split = next((name for name in splits if _holds_input(folder, name, all_files)), None)
    return "class", [] if split is None or other is None else [
        f"{shown(split)} is taken for a class, since {shown(other)} beside it is no split "
        "(--layout split/class takes all of them for splits)"
    ]


def _holds_input(folder: Path, name: bytes, all_files: bool) -> bool:
    return any(is_taken(found, all_files) for found in walk(folder, only=name))


class FolderSource:
    """The pictures under a folder; keys are their paths relative to it.

    Inputs are all files whose ending is a picture's (``all_files``: all files); names that begin with a dot
    are passed over, with what lies below them. Broken links, FIFOs and devices with a picture's name are
    inputs too (of size -1), to be reported as failures. Other files are counted in ``ignored``, and so are
    hidden files with a picture's name.

    Layout, where ``layout`` is not given:

    * a picture lies directly in the folder: "flat" (no labels, no splits);
    * every directory in the folder that holds a picture is named like a split (train, training, val, valid,
      validation, test, testing, dev, eval, holdout; in any case), and there is one: "split/class", the first
      part of a path is the split as spelled, the second the class if the path has three parts or more;
    * else: "class", the first part of the path is the class.

    ``layout`` may also be "split" (the first part is the split, no classes) or "none" (as "flat"). ``root``: where
    the folder is now; ``folder`` goes on to be its name. Raises UsageError for an unknown layout or a directory that may not be listed.
    """

    kind: str = "folder"

    def __init__(
        self, folder: Path, *, root: Path | None = None, layout: str | None = None, all_files: bool = False
    ) -> None:
        if layout is not None and layout not in LAYOUTS:
            raise UsageError(f"there is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
        self.root = Path(os.path.abspath(folder if root is None else root))
        self.location = os.path.abspath(folder)
        found, self.notes = (layout, []) if layout is not None else detect_layout(self.root, all_files)
        self.layout: str | None = found
        self.ignored = 0
        self._all_files = all_files

    def describe(self) -> dict[str, Any]:
        """Return kind, location, root and layout as JSON."""
        return {"kind": self.kind, "location": self.location, "root": str(self.root), "layout": self.layout}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all pictures; see Source.chunks. Raises UsageError where there is none."""
        empty = True
        for chunk in chunked(self._rows(), rows, []):
            empty = False
            yield chunk
        if empty:
            raise UsageError(f"{shown(self.root)}: holds no pictures{others_ignored(self.ignored)}")

    def _rows(self) -> Iterator[Row]:
        self.ignored = 0
        for found in walk(self.root):
            if not is_taken(found, self._all_files):
                # Hidden files are meant to be overlooked, unless they may be pictures.
                self.ignored += not found.hidden or is_picture_name(found.entry.name)
                continue
            try:
                size, mtime = size_and_mtime(found.entry.stat())
            except OSError:
                size, mtime = -1, -1
            label, split = labels_of(found.path, self.layout)
            yield Row(found.path, size, mtime, label=label, split=split)


def others_ignored(count: int) -> str:
    """Return the end of a message about an empty source: how much there was of other names."""
    if not count:
        return ""
    return f"; {counted(count, 'file of another name was', 'files of other names were')} ignored (--all-files takes such files)"


def labels_of(path: bytes, layout: str | None) -> tuple[str | None, str | None]:
    """Return label and split of a relative ``path`` under ``layout``."""
    if layout not in ("split/class", "class", "split"):
        return None, None
    parts = path.split(b"/", 2)
    first = _text(parts[0]) if len(parts) > 1 else None
    if layout == "class":
        return first, None
    second = _text(parts[1]) if layout == "split/class" and len(parts) > 2 else None
    return second, first


# Classes are few, and pictures many.
_text = functools.lru_cache(1024)(os.fsdecode)
