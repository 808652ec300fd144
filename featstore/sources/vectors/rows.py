"""Keys, labels, splits and metadata of vectors, from the files of the vectors, or from tables, lists or arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.sources.base import ROWS, Chunk, NoLabel, Scalar, label_text, without_dot
from featstore.sources.listing import entries
from featstore.sources.table import LABEL_NAMES, PATH_NAMES, SPLIT_NAMES
from featstore.sources.tabular import CsvTable, open_table, scalar
from featstore.sources.tally import Tally
from featstore.sources.vectors import Vectors
from featstore.sources.vectors.numpy_files import read_array
from featstore.text import counted, did_you_mean, printable, shown, to_bytes

KEY_NAMES: Final = (
    "key",
    "keys",
    *PATH_NAMES,
    "paths",
    "filenames",
    "files",
    "names",
    "name",
    "url",
    "image_id",
    "id",
    "ids",
)
"""Usual names of columns of keys, in order of preference; ids come last, because paths are easier to recognise."""
SHA256: Final = "sha256"
_REGION: Final = ("parent", "x", "y", "w", "h")
"""Columns in an export of featstore: the key of the picture, and the box of the region in it."""
_TABLES: Final = (".csv", ".tsv", ".tab", ".parquet", ".pq")
_GIVEN_KEYS, _GIVEN_LABELS = "\0keys", "\0labels"


@dataclass
class ImportedRows:
    """Keys, labels, splits and metadata of n vectors, with the interface of a source (see sources.base.Source).

    ``hashes`` (n,): hashes of the vectors, set by the caller; if a row's hash changes, its vector has changed.
    ``content`` (n, 32): SHA-256 of the pictures, zeros where unknown. ``from_text``: metadata columns that were read
    from text files. ``regions`` (n, 5): parts of pictures (see Chunk); None if all rows are whole pictures.
    """

    location: str
    keys: list[bytes]
    labels: list[str | None]
    splits: list[str | None]
    metadata: dict[str, list[Scalar]]
    content: NDArray[np.uint8]
    read_as: str
    notes: list[str]
    from_text: frozenset[str] = frozenset()
    row_bytes: int = 0
    regions: NDArray[np.int32] | None = None
    hashes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    kind: str = "import"
    # This folder does not exist, so that no picture of these rows can be read.
    root: Path = Path(os.devnull)
    layout: str | None = None
    ignored: int = 0
    unfound: str = ""

    def describe(self) -> dict[str, Any]:
        """Return kind, location and root folder of the files of vectors, as JSON types."""
        return {"kind": self.kind, "location": self.location, "root": str(self.root), "metadata": list(self.metadata)}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all rows. In the chunks, ``sizes`` are the bytes of a vector, and ``mtimes`` its hash."""
        for start in range(0, len(self.keys), rows):
            part = slice(start, min(start + rows, len(self.keys)))
            n = part.stop - start
            yield Chunk(
                self.keys[part],
                np.full(n, self.row_bytes, np.int64),
                self.hashes[part],
                np.full(n, -1, np.int64),
                None,
                self.labels[part],
                self.splits[part],
                {name: values[part] for name, values in self.metadata.items()},
                None if self.regions is None else self.regions[part],
            )


def read_rows(
    vectors: Vectors,
    location: str,
    keys: Sequence[str | os.PathLike[str]] = (),
    labels: Sequence[str | os.PathLike[str]] = (),
    split: str | None = None,
    *,
    own: frozenset[str] = frozenset(),
) -> ImportedRows:
    """Return keys, labels, splits and metadata of ``vectors``, which came from ``location``.

    ``keys`` and ``labels``: either the name of a column or array in the files of the vectors, or one or more files
    (lists, .npy, or tables, whose other columns become metadata). By default, columns with usual names are taken;
    without a column of keys, the keys are the row numbers. ``split``: name of the column of splits, "" for none.
    ``own``: names of featstore's internal columns, if the files are an export of featstore. These columns are left out,
    and exported regions of pictures become regions again. Raises UsageError if a column does not have n values, or if a
    key is empty.
    """
    n = vectors.shape[0]
    columns: dict[str, list[Any]] = vectors.columns()
    from_text: set[str] = set()
    key = _add(columns, from_text, keys, _GIVEN_KEYS, "--keys", KEY_NAMES, n)
    label = _add(columns, from_text, labels, _GIVEN_LABELS, "--labels", LABEL_NAMES, n)
    taken = {key, label}
    split_column = _found(columns, SPLIT_NAMES, taken) if split is None else _named(columns, split, "--split-column")
    notes = []
    if key is None:
        notes.append("the vectors have no keys: the keys are their row numbers, from 0 (--keys names others)")
    made = [str(row).encode() for row in range(n)] if key is None else list(map(_key, columns[key]))
    empty = next((row for row, one in enumerate(made) if not one), None)
    if empty is not None:
        raise UsageError(f"{shown(location)}: the key of row {empty + 1:,} is empty; fill it in or drop the row")
    content, digest = _content(columns, n)
    regions = _regions(columns, made) if own else None
    skipped = {key, label, split_column, digest, *own, *(_REGION if regions is not None else ())}
    odd = sorted(name for name, values in columns.items() if name not in skipped and _is_binary(values))
    if odd:
        notes.append(f"left out, for they hold binary data: {', '.join(map(printable, odd))}")
    metadata = {name: list(map(scalar, values)) for name, values in columns.items() if name not in {*skipped, *odd}}
    texts, splits = _texts(columns, label, n, location), _texts(columns, split_column, n, location)
    tally = Tally()
    tally.add(texts, splits, n)
    names = {name: repr(printable((name or "").lstrip("\0"))) for name in (key, label, split_column)}
    rest = f"keys from {names[key] if key else 'the row numbers'}, " + (
        f"columns {', '.join(map(printable, metadata))}" if metadata else "no other columns"
    )
    return ImportedRows(
        location,
        made,
        texts,
        splits,
        metadata,
        content,
        tally.line(names[label], names[split_column], rest),
        notes,
        frozenset(from_text & metadata.keys()),
        vectors.shape[1] * vectors.dtype.itemsize,
        regions,
    )


def _regions(columns: dict[str, list[Any]], keys: list[bytes]) -> NDArray[np.int32] | None:
    """Return the regions (n, 5) from the columns of an export of featstore; None if there are no regions."""
    if not columns.keys() >= set(_REGION):
        return None
    found = np.zeros((len(keys), 5), np.int32)
    for row, (key, parent, *box) in enumerate(zip(keys, *(columns[name] for name in _REGION), strict=True)):
        if any(value is not None for value in box):
            picture = _key(parent)
            if not key.startswith(picture + b"#") or not all(isinstance(value, int) for value in box):
                return None
            found[row] = *box, len(picture)
    return found


def _add(
    columns: dict[str, list[Any]],
    from_text: set[str],
    given: Sequence[str | os.PathLike[str]],
    name: str,
    option: str,
    usual: Sequence[str],
    n: int,
) -> str | None:
    """Find the column of keys (or of labels) of n vectors; return its name, or None.

    ``given``: the user's choice, a column or files. The columns of files are added to ``columns`` under ``name``, or
    under their own names if the files are tables.
    """
    if not given:
        return _found(columns, usual, set())
    if len(given) == 1 and not os.path.isfile(given[0]):
        return _named(columns, os.fspath(given[0]), option)
    added: dict[str, list[Any]] = {}
    for path in map(Path, given):
        values = _read(path, name, from_text)
        for column in [column for column in added if column not in values]:
            del added[column]
        for column, more in values.items():
            if not added or column in added or path == Path(given[0]):
                added.setdefault(column, []).extend(more)
    count = len(next(iter(added.values()), []))
    if count != n:
        raise UsageError(
            f"{option}: {counted(count, 'row')} for {counted(n, 'vector')}; each vector needs one, in the same order"
        )
    chosen = name if name in added else _found(added, usual, set())
    if chosen is None:
        raise UsageError(
            f"{shown(given[0])}: has no column of a usual name for {option} ({', '.join(usual[:6])}, ...); it has {', '.join(map(printable, added))}"
        )
    columns.update(added)
    return chosen


def _read(path: Path, name: str, from_text: set[str]) -> dict[str, list[Any]]:
    """Return the columns of the file at ``path`` by name; a list or an array is a single column, called ``name``.

    The column names of a CSV table are added to ``from_text``.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(6)
            if start == b"\x93NUMPY":
                array = read_array(path)
                if array.ndim != 1 or array.dtype.kind not in "USiuf":
                    raise UsageError(f"{shown(path)}: is no array of n texts or numbers")
                return {name: array.tolist()}
            if not start.startswith(b"PAR1") and path.suffix.lower() not in _TABLES:
                return {name: [entry for _, entry in entries(file)]}
    except OSError as error:
        raise UsageError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    table = open_table(path)
    values: list[list[Any]] = [[] for _ in table.columns]
    for _, record in table.records():
        for column, value in zip(values, record, strict=True):
            column.append(value)
    if isinstance(table, CsvTable):
        from_text.update(table.columns)
    return dict(zip(table.columns, values, strict=True))


def _found(columns: dict[str, list[Any]], usual: Sequence[str], taken: set[str | None]) -> str | None:
    free = {name.strip().lower(): name for name in reversed(columns) if name not in taken}
    return next((free[name] for name in usual if name in free), None)


def _named(columns: dict[str, list[Any]], name: str, option: str) -> str | None:
    if name == "":
        return None
    if name not in columns:
        there = ", ".join(map(printable, columns)) or "none"
        raise UsageError(
            f"{option}: {printable(name)!r} is neither a file nor a column beside the vectors; these are {there}{did_you_mean(name, columns)}"
        )
    return name


def _key(value: Any) -> bytes:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return without_dot(value if isinstance(value, bytes) else to_bytes("" if value is None else str(value)))


def _texts(columns: dict[str, list[Any]], name: str | None, n: int, location: str) -> list[str | None]:
    if name is None:
        return [None] * n
    try:
        known: dict[Any, str | None] = {}
        texts = []
        for value in columns[name]:
            if value not in known:
                known[value] = label_text(value)
            texts.append(known[value])
        return texts
    except (NoLabel, TypeError) as error:
        raise UsageError(
            f"{shown(location)}: {printable(name)!r} has a value that {error}; name another column"
        ) from None


def _content(columns: dict[str, list[Any]], n: int) -> tuple[NDArray[np.uint8], str | None]:
    """Return the SHA-256 of the pictures (n, 32) and its column's name; zeros and None without such a column."""
    values = columns.get(SHA256)
    if values is None or not all(isinstance(value, bytes) and len(value) == 32 for value in values):
        return np.zeros((n, 32), np.uint8), None
    return np.frombuffer(b"".join(values), np.uint8).reshape(n, 32), SHA256


def _is_binary(values: Sequence[Any]) -> bool:
    return any(isinstance(value, bytes) for value in values)
