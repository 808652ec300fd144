"""Sources of pictures: folders, tables, WebDataset archives and lists of paths.

``open_source`` finds the kind of a source. Sources of all kinds yield Chunks, sorted by name or in the order of the
file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from featstore.errors import UsageError
from featstore.sources.base import ADDRESS_HINT, Chunk, Picture, ReadFailure, Source, is_picture_name
from featstore.sources.reading import read_picture
from featstore.sources.regions import Cut, TiledSource
from featstore.text import did_you_mean, shown

__all__ = ["KINDS", "Chunk", "Picture", "ReadFailure", "Source", "open_source", "read_picture"]

KINDS: Final = ("folder", "table", "tar", "list", "coco")
_PACKED: Final = {b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "rar"}
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
    cut: Cut | None = None,
) -> Source:
    """Open ``source``, and report errors in the arguments; the pictures are not read yet.

    ``kind``: if None, it is found as follows. A folder without pictures is "tar" if it has .tar archives, and "table"
    if it has Parquet files, which must contain pictures; any other folder is "folder". A file is "tar" (.tar), "table"
    (.csv, .tsv, .tab, .parquet, .pq) or "coco" (.json, annotations in the format of COCO) by its extension, otherwise
    "list", a list of paths. "-" is a list on standard input. ``root``: base of relative paths, for pictures that moved.
    ``layout`` and ``all_files``: see FolderSource and TarSource. ``path_column``, ``label_column``, ``split_column``,
    ``id_column``: see TableSource; for "tar" they are names of fields in its .json files. ``cut``: which parts of the
    pictures to take (see Cut); the kind "coco" needs it.

    Raises UsageError if the source does not exist, if its kind is unknown, or if its kind has no such option;
    FeatstoreError if it cannot be read.
    """
    name = os.fspath(source)
    if kind is not None and kind not in KINDS:
        raise UsageError(
            f"there is no kind of source {kind!r}; choose one of {', '.join(KINDS)}{did_you_mean(kind, KINDS)}"
        )
    if kind is None:
        # If the source does not exist but a root is given, the source must be a folder that was moved to the root.
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
        "tar": ("root", "all_files", "layout", "label_column", "split_column"),
        "list": ("root",),
        "coco": ("root",),
    }[kind]
    if cut is not None and cut.boxes is not None and kind != "table":
        raise UsageError(f"{shown(name)}: a source of kind {kind} has no columns of boxes; leave boxes out")
    if cut is not None and cut.tiles is not None and kind == "coco":
        raise UsageError(f"{shown(name)}: has boxes of its own; leave tiles out")
    for option, value in options.items():
        if value is not None and option not in taken:
            raise UsageError(f"{shown(name)}: a source of kind {kind} takes no {option}; leave it out")
    if root is not None and not os.path.isdir(root):
        raise UsageError(f"{shown(root)}: the root is no folder")
    opened = _open(kind, name, None if root is None else Path(root), layout, columns, all_files, cut)
    return TiledSource(opened, cut) if cut is not None and cut.tiles is not None else opened


def _open(
    kind: str,
    name: str,
    root: Path | None,
    layout: str | None,
    columns: dict[str, str | None],
    all_files: bool,
    cut: Cut | None,
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
    if kind == "coco":
        from featstore.sources.coco import CocoSource

        if cut is None:
            raise UsageError(f"{shown(name)}: holds annotations of pictures, not a picture")
        return CocoSource(path, cut, root=root)
    if kind == "tar":
        from featstore.sources.archive import TarSource

        names = {name: columns[name] for name in ("label_column", "split_column")}
        return TarSource(path, root=root, all_files=all_files, layout=layout, **names)
    if path.is_dir() or _is_parquet(path):
        from featstore.sources.embedded import ParquetSource, picture_column

        if path.is_dir() or picture_column(path, columns["path_column"]) is not None:
            if cut is not None and cut.boxes is not None:
                raise UsageError(f"{shown(name)}: holds the pictures themselves; boxes need a table with their paths")
            return ParquetSource(path, root=root, **columns)
    from featstore.sources.table import TableSource

    return TableSource(path, root=root, **columns, cut=cut)


def _is_parquet(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(4) == b"PAR1"
    except OSError:
        return False


def _detect(name: str, all_files: bool) -> str:
    if name == "-":
        return "list"
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError) as error:
        hint = f"; {ADDRESS_HINT}" if "://" in name else ""
        raise UsageError(f"{shown(name)}: cannot be opened ({getattr(error, 'strerror', error)}){hint}") from None
    if stat.S_ISDIR(mode):
        from featstore.sources.folder import detect_kind_inside

        return {"tar": "tar", "parquet": "table"}.get(detect_kind_inside(Path(name), all_files) or "", "folder")
    suffix = os.path.splitext(name)[1].lower()
    if suffix == ".tar":
        return "tar"
    if suffix in _TABLE_SUFFIXES:
        return "table"
    if suffix == ".json":
        return "coco"
    if is_picture_name(os.fsencode(name)):
        raise UsageError(f"{shown(name)}: is one file; name its folder, or a list of paths")
    if stat.S_ISREG(mode):
        _require_text(name)
        return "list"
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return "list"
    raise UsageError(f"{shown(name)}: is neither a folder nor a file")


def _require_text(name: str) -> None:
    from featstore.sources.archive import compressed_message, decompress_command

    try:
        with open(name, "rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UsageError(f"{shown(name)}: cannot be opened ({error.strerror})") from None
    command = decompress_command(start)
    packed = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
    if command is not None:
        raise UsageError(compressed_message(name, command))
    if packed is not None:
        raise UsageError(f"{shown(name)}: is a {packed} archive; unpack it and name the folder")
