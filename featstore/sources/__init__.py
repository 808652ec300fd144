"""Sources of pictures: folders, tables, WebDataset archives and lists of paths.

``open_source`` tells them apart; every one yields the same Chunks in an order that depends on names only.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from featstore.errors import UsageError
from featstore.sources.base import Chunk, Source, is_picture_name, shown
from featstore.sources.reading import Picture, ReadFailure, read_picture

__all__ = ["KINDS", "Chunk", "Picture", "ReadFailure", "Source", "open_source", "read_picture"]

KINDS: Final = ("folder", "table", "tar", "list")
_TABLE_SUFFIXES: Final = (".csv", ".tsv", ".tab", ".parquet", ".pq")


def open_source(
    source: str | os.PathLike[str],
    *,
    kind: str | None = None,
    root: str | os.PathLike[str] | None = None,
    layout: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    id_column: str | None = None,
    all_files: bool = False,
) -> Source:
    """Open what ``source`` names, looking at it just enough to report what is wrong with the request.

    ``kind`` is found where it is not given: a folder is "folder", or "tar" where it holds .tar archives and no
    pictures; a file is "tar" or "table" by its ending (.tar; .csv, .tsv, .tab, .parquet, .pq), else "list", a
    list of paths; "-" is a list on standard input. ``root`` (table, tar, list): where relative paths are
    resolved; it relocates pictures that moved. ``layout`` and ``all_files``: see FolderSource (``all_files``
    also for tar). The columns: see TableSource.

    Raises UsageError where the source does not exist, is of no readable kind or does not take an option that
    was given; FeatstoreError where it cannot be read.
    """
    name = os.fspath(source)
    if kind is not None and kind not in KINDS:
        raise UsageError(f"there is no kind of source {kind!r}; choose one of {', '.join(KINDS)}")
    if kind is None:
        # What moved away altogether, and is said to be elsewhere, can only have been a folder.
        kind = "folder" if root is not None and not os.path.exists(name) and name != "-" else _detect(name, all_files)
    columns = {
        "path_column": path_column,
        "label_column": label_column,
        "split_column": split_column,
        "id_column": id_column,
    }
    options = {"root": root, "layout": layout, "all_files": all_files or None, **columns}
    taken = {
        "folder": ("root", "layout", "all_files"),
        "table": ("root", *columns),
        "tar": ("root", "all_files"),
        "list": ("root",),
    }[kind]
    for option, value in options.items():
        if value is not None and option not in taken:
            raise UsageError(f"{shown(name)}: a source of kind {kind} takes no {option}; leave it out")
    if root is not None and not os.path.isdir(root):
        raise UsageError(f"{shown(root)}: the root is no folder")
    return _open(kind, name, None if root is None else Path(root), layout, columns, all_files)


def _open(
    kind: str, name: str, root: Path | None, layout: str | None, columns: dict[str, str | None], all_files: bool
) -> Source:
    path = Path(name)
    if kind == "list":
        from featstore.sources.listing import ListSource

        return ListSource(None if name == "-" else path, root=root)
    if kind == "folder":
        from featstore.sources.folder import FolderSource

        if root is None and not path.is_dir():
            raise UsageError(f"{shown(name)}: is no folder")
        return FolderSource(path, root=root, layout=layout, all_files=all_files)
    if not path.exists():
        raise UsageError(f"{shown(name)}: does not exist")
    if kind == "tar":
        from featstore.sources.archive import TarSource

        return TarSource(path, root=root, all_files=all_files)
    from featstore.sources.table import TableSource

    return TableSource(path, root=root, **columns)


def _detect(name: str, all_files: bool) -> str:
    if name == "-":
        return "list"
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown(name)}: cannot be opened ({getattr(error, 'strerror', error)})") from None
    if stat.S_ISDIR(mode):
        from featstore.sources.folder import holds_archives_only

        return "tar" if holds_archives_only(Path(name), all_files) else "folder"
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".tar":
        return "tar"
    if suffix in _TABLE_SUFFIXES:
        return "table"
    if is_picture_name(os.fsencode(name)):
        raise UsageError(f"{shown(name)}: is one file; name its folder, or a list of paths")
    if stat.S_ISREG(mode):
        _require_text(name)
        return "list"
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return "list"
    raise UsageError(f"{shown(name)}: is neither a folder nor a file")


def _require_text(name: str) -> None:
    from featstore.sources.archive import decompressor

    try:
        with open(name, "rb") as file:
            command = decompressor(file.read(8))
    except OSError as error:
        raise UsageError(f"{shown(name)}: cannot be opened ({error.strerror})") from None
    if command is not None:
        raise UsageError(f"{shown(name)}: is compressed; decompress it first ({command})")
