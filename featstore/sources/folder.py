"""A folder of pictures, walked in sorted order, which does not depend on the file system."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.base import ROWS, Chunk, Row, chunked, is_picture_name, size_and_mtime
from featstore.sources.layout import LAYOUTS, Layout, may_be_splits, ordinal, split_names, split_word
from featstore.sources.tally import Tally
from featstore.text import counted, shown, to_text

_PACKED: Final = (b".tar.gz", b".tgz", b".tar.bz2", b".tar.xz", b".tar.zst", b".zip", b".7z", b".rar")
_DEEPEST: Final = 8
"""Largest depth, in folders, at which the folders of classes are searched."""
_NOTHING_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Found(NamedTuple):
    """A file found below a folder. ``path``: relative to the folder. ``hidden``: the file name begins with a dot.

    ``picture``: the file is not hidden and has the extension of a picture.
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


def walk(folder: Path) -> Iterator[Found]:
    """Yield everything below ``folder`` except directories; the entries of each directory are sorted by bytes.

    Memory is bounded by the largest directory, not by the tree. Links are followed. A link to a directory
    that contains the link (by device and inode) is not entered, so the walk ends. Hidden directories are not entered. A
    directory that has the extension of a picture but contains no picture is yielded, so that it is reported as a
    failure. Raises UsageError if a directory's listing is not permitted, FeatstoreError if it fails otherwise.
    """
    pictures = 0
    stack = [_enter(os.fsencode(folder), b"", None, 0)]
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
            below = _enter(entry.path, path + b"/", entry, pictures)
            if any(below.identity == ancestor.identity for ancestor in stack):
                below = below._replace(entries=iter(()))
            stack.append(below)


def _is_directory(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # The operating system does not say whether the entry is a directory. A name like that of a picture counts as
        # a file: an error is reported when it is read. Any other entry may be a directory of pictures, so the error is
        # raised, because such a directory must not be skipped silently.
        if error.errno in _NOTHING_THERE or is_picture_name(entry.name):
            return False
        raise _cannot_list(entry.path, error) from None


def _enter(path: bytes, prefix: bytes, entry: os.DirEntry[bytes] | None, pictures: int) -> _Level:
    try:
        status = os.stat(path)
        with os.scandir(path) as found:
            entries = sorted(found, key=operator.attrgetter("name"))
    except OSError as error:
        raise _cannot_list(path, error) from None
    return _Level(prefix, (status.st_dev, status.st_ino), iter(entries), entry, pictures)


def _cannot_list(path: bytes, error: OSError) -> FeatstoreError:
    if isinstance(error, PermissionError):
        return UsageError(f"{shown(path)}: cannot be listed ({error.strerror}); grant access to it or move it away")
    return FeatstoreError(f"{shown(path)}: cannot be listed ({error.strerror}); check the disk and run again")


def _is_input(name: bytes, all_files: bool) -> bool:
    return not name.startswith(b".") and (all_files or is_picture_name(name))


def is_input(found: Found, all_files: bool) -> bool:
    """Return whether a file is an input: it is not hidden, and it has a picture's extension or ``all_files`` is true."""
    return found.picture or (all_files and not found.hidden)


def detect_kind_inside(folder: Path, all_files: bool) -> str | None:
    """Return "tar" or "parquet" if ``folder`` has tar or Parquet files and no pictures, otherwise None.

    If ``all_files`` is true, the result is also None if ``folder`` has any other file.
    """
    kinds = set()
    for found in walk(folder):
        if is_archive_name(found):
            kinds.add("tar")
        elif not found.hidden and found.entry.name.lower().endswith((b".parquet", b".pq")):
            kinds.add("parquet")
        elif is_input(found, all_files):
            return None
    return "tar" if "tar" in kinds else "parquet" if kinds else None


def is_archive_name(found: Found) -> bool:
    """Return whether a file has the extension .tar, and is not hidden."""
    return not found.hidden and found.entry.name.lower().endswith(b".tar")


def detect_layout(folder: Path, all_files: bool) -> tuple[Layout, list[str]]:
    """Return the layout of ``folder`` by the rules of FolderSource, and notes if the user may expect another layout."""
    level = _look(folder, b"", all_files)
    if level.picture is not None:
        return Layout.of("flat"), [] if not level.folders else [
            f"{shown(level.picture)} lies directly in the folder, so folders such as {shown(level.folders[0])} are no "
            "classes (--layout class makes them)"
        ]
    above: list[bytes] = []
    below, path = level, list(above)
    while len(below.folders) == 1 and below.picture is None and split_names(below.folders) is None:
        if len(path) == _DEEPEST:
            break
        path.append(below.folders[0])
        below = _look(folder, b"/".join(path), all_files)
    if below.picture is None and (len(below.folders) > 1 or split_names(below.folders) is not None):
        # A single sub-folder that contains several folders of pictures is not a class; those folders are the classes.
        level, above = below, path
    notes = []
    if above:
        notes.append(
            f"all pictures lie in {shown(b'/'.join(above))}, so the folders in it are read "
            "(--layout class takes the first folder of each path for its class)"
        )
    if not level.folders:
        return Layout.of("flat"), []
    if (splits := split_names(level.folders)) is not None:
        layout = Layout.of("split/class")
        if _repeated(folder, above, splits, all_files):
            layout = replace(layout, label=2)
            notes.append(
                f"{shown(splits[0])} holds one folder, which holds the classes: they are the third part of each path "
                "(--layout split/class takes the second)"
            )
        return layout.below(len(above)), notes
    split = next((name for name in level.folders if split_word(to_text(name))), None)
    if split is not None:
        other = next(name for name in level.folders if not split_word(to_text(name)))
        notes.append(
            f"{shown(split)} is taken for a class, since {shown(other)} beside it is no split "
            "(--layout split/class takes all of them for splits)"
        )
    return Layout.of("class").below(len(above)), notes


class _Listing(NamedTuple):
    """The contents of a folder that decide its layout.

    ``picture``: a picture directly in the folder, or None. ``folders``: its sub-folders that contain pictures at any
    depth. ``folders`` may be incomplete, because the layout depends only on a few sub-folders. If there is a picture,
    one folder is listed. If there is no picture and a folder's name looks like a split, all are listed. Otherwise two
    are listed.
    """

    picture: bytes | None
    folders: list[bytes]


def _look(folder: Path, below: bytes, all_files: bool) -> _Listing:
    here = os.path.join(os.fsencode(folder), below)
    folders, picture = [], None
    for entry in _enter(here, b"", None, 0).entries:
        hidden = entry.name.startswith(b".")
        if _is_directory(entry):
            folders += [] if hidden else [entry.name]
        elif picture is None and not hidden and (all_files or is_picture_name(entry.name)):
            picture = entry.name
    enough = 1 if picture is not None else len(folders) if may_be_splits(folders) else 2
    holding = (name for name in folders if _holds_input(os.path.join(here, name), all_files))
    return _Listing(picture, list(islice(holding, enough)))


def _holds_input(folder: bytes, all_files: bool) -> bool:
    if is_picture_name(folder):
        return True
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        # scandir does not sort: the search stops at the first picture, however many files the folder has.
        if any(not _is_directory(e) and _is_input(e.name, all_files) for e in entries):
            return True
    return any(is_input(found, all_files) for found in walk(Path(os.fsdecode(folder))))


def _repeated(folder: Path, above: list[bytes], splits: Sequence[bytes], all_files: bool) -> bool:
    """Return whether each split contains only one folder, named like the split, as in seg_train/seg_train."""
    for split in splits:
        below = _look(folder, b"/".join([*above, split]), all_files)
        if below.picture is not None or below.folders != [split]:
            return False
    return True


class FolderSource:
    """The pictures below a folder; keys are their paths relative to it.

    Inputs are all files with the extension of a picture (``all_files``: all files). Hidden files and directories are
    skipped. Broken links, FIFOs and devices with a picture's name are inputs of size -1, reported as failures. Other
    files are counted in ``ignored``, and so are hidden files with a picture's name.

    Default layout, if ``layout`` is not given:

    * "flat" (no labels, no splits), if a picture is directly in the folder;
    * "split/class", if there is a directory with pictures and all such directories are named like splits (train, val,
      test and similar, also training_set, "test images" or seg_train beside seg_test; see split_word). The first part
      of a path is the split as spelled; the second is the class if the path has three parts or more. If each split
      contains only one folder, named like the split, the third part is the class;
    * otherwise "class": the first part of the path is the class.

    The rules apply to a sub-folder if it contains all pictures, is not named like a split, and has two or more folders
    of pictures or folders named like splits. (Unpacking an archive often makes such a sub-folder.) A given layout
    always starts at the first part of a path. Labels and splits are normalised to NFC.

    ``layout`` may also be "split" (the first part is the split, no classes) or "none" (same as "flat"). ``root``:
    present path of the folder, if it was moved; ``folder`` remains the recorded location. Raises UsageError for an
    unknown layout, or a directory whose listing is not permitted.
    """

    kind: str = "folder"

    def __init__(
        self, folder: Path, *, root: Path | None = None, layout: str | None = None, all_files: bool = False
    ) -> None:
        if layout is not None and layout not in LAYOUTS:
            raise UsageError(f"there is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}")
        self.root = Path(os.path.abspath(folder if root is None else root))
        self.location = os.path.abspath(folder)
        self._layout, self._doubts = (
            (Layout.of(layout), []) if layout is not None else detect_layout(self.root, all_files)
        )
        self.layout: str | None = self._layout.name
        self.notes = list(self._doubts)
        self.ignored, self.read_as, self.unfound = 0, "", ""
        self._all_files = all_files
        self._deep, self._first_deep, self._packed = 0, b"", ""

    def describe(self) -> dict[str, Any]:
        """Return kind, location, root folder and layout of this source, as JSON types."""
        return {"kind": self.kind, "location": self.location, "root": str(self.root), "layout": self.layout}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all pictures; see Source.chunks. Raises UsageError if there is no picture."""
        tally = Tally()
        yield from tally.watch(chunked(self._rows(), rows, []))
        if not tally.rows:
            raise UsageError(
                f"{shown(self.root)}: holds no pictures{self._packed or ignored_files_message(self.ignored)}"
            )
        label, split = self._layout.label, self._layout.split
        self.read_as = tally.line(
            f"the {ordinal(label)} folder of each path",
            f"the {ordinal(split)}",
            f"layout {self.layout} (--layout changes it)",
        )
        self.notes = [*self._doubts, *self._deeper(), *(tally.notes("--layout") if label is not None else [])]

    def _deeper(self) -> list[str]:
        """Return a note if pictures are in folders below the folders of their classes, otherwise []."""
        if not self._deep:
            return []
        return [
            f"{counted(self._deep, 'picture lies', 'pictures lie')} in folders below the class's own, whose names are not "
            f"read (the first: {shown(self._first_deep)}): name an inner folder as the source if they are the classes"
        ]

    def _rows(self) -> Iterator[Row]:
        self.ignored = self._deep = 0
        self._packed = ""
        at = self._layout.label
        for found in walk(self.root):
            if not is_input(found, self._all_files):
                # Hidden files are skipped on purpose. They count as ignored only if they may be pictures.
                self.ignored += not found.hidden or is_picture_name(found.entry.name)
                if not self._packed and not found.hidden and found.entry.name.lower().endswith(_PACKED):
                    self._packed = (
                        f", but packed ones such as {shown(found.path)}: unpack them, and name the folder or .tar"
                    )
                continue
            try:
                size, mtime = size_and_mtime(found.entry.stat())
            except OSError:
                size, mtime = -1, -1
            label, split = self._layout.of_path(found.path)
            if at is not None and found.path.count(b"/") > at + 1:
                self._first_deep = self._first_deep if self._deep else found.path
                self._deep += 1
            yield Row(found.path, size, mtime, label=label, split=split)


def ignored_files_message(count: int) -> str:
    """Return the end of the message about an empty source: it says that ``count`` files have other extensions."""
    if not count:
        return ""
    return f"; {counted(count, 'file of another name was', 'files of other names were')} ignored (--all-files takes such files)"
