"""Labels, splits and metadata: side tables by key, separate from the shards, one file per version.

tables/<epoch>/<version>.h5 are sealed (checksummed) HDF5 files; each compaction begins a new epoch. A table has columns
for some keys. Tables of ``origin`` "source" were read with the pictures; tables of origin "user" came from ``featstore
label`` and override them. Within an origin, newer tables override older ones, for each key and column.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError, UsageError
from featstore.files import sealed
from featstore.files.byte_columns import ByteColumn, column
from featstore.store import folders, written
from featstore.store.keys import KeyIndex, digests
from featstore.store.manifest import Manifest, settled

KIND = "table"
LABEL, SPLIT = "label", "split"
Value = str | int | float | bool | None
Origin = Literal["source", "user"]
ABOUT = ("created", "generation", "reverts", "of", "follows")
FOLLOW = "follow"
"""Name in the manifest's ``requires`` of a store that uses (follows) another store's tables."""
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?|[nN]a[nN]")


@dataclass(frozen=True)
class Column:
    """n values of one type.

    "text": ``values`` are indices into ``categories``. Missing: False in ``valid`` ("int"), NaN ("float"), -1 (others).
    """

    type: str
    values: NDArray[Any]
    categories: tuple[str, ...] = ()
    valid: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, values: Sequence[Value]) -> Column:
        """Make a column of Python values; mixed types become text."""
        kinds = {type(value) for value in values if value is not None}
        if kinds == {bool}:
            return cls("bool", np.array([-1 if value is None else int(value) for value in values], np.int8))
        if kinds == {int} and all(value is None or -(1 << 63) <= value < 1 << 63 for value in values):  # type: ignore[operator]
            valid = np.array([value is not None for value in values], bool)
            return cls("int", np.array([0 if value is None else value for value in values], np.int64), (), valid)
        if float in kinds and kinds <= {int, float}:
            return cls("float", np.array([np.nan if value is None else float(value) for value in values], np.float64))
        texts = [None if value is None else str(value) for value in values]
        categories = sorted({text for text in texts if text is not None})
        code: dict[str | None, int] = {text: number for number, text in enumerate(categories)}
        code[None] = -1
        return cls("text", np.fromiter((code[text] for text in texts), np.int32, len(texts)), tuple(categories))

    @classmethod
    def of_text(cls, values: Sequence[Value]) -> Column:
        """Make a column of values read from text; numbers if every value is written as a number ("007" is not).

        Empty texts are missing values in columns of numbers, as in pandas.read_csv.
        """
        texts = [value for value in values if value is not None and value != ""]
        if texts and all(isinstance(text, str) for text in texts):
            for pattern, number in ((_INTEGER, int), (_NUMBER, float)):
                if all(pattern.fullmatch(text) for text in texts):  # type: ignore[arg-type]
                    return cls.of([None if value is None or value == "" else number(value) for value in values])
        return cls.of(values)

    def objects(self) -> NDArray[np.object_]:
        """Return the values of the column as Python objects, None for missing ones."""
        values = np.empty(len(self), object)
        if self.type == "text":
            names = np.array([*self.categories, None], object)
            return np.asarray(names[self.values])
        if self.type == "int":
            valid = self.valid if self.valid is not None else np.ones(len(self), bool)
            values[valid] = self.values[valid].tolist()
        elif self.type == "bool":
            known = self.values >= 0
            values[known] = self.values[known].astype(bool).tolist()
        else:
            known = ~np.isnan(self.values)
            values[known] = self.values[known].tolist()
        return values

    def take(self, rows: NDArray[np.int64]) -> Column:
        """Return the column with the values of ``rows`` only."""
        return Column(self.type, self.values[rows], self.categories, None if self.valid is None else self.valid[rows])


class Table:
    """One table file, memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.file = sealed.SealedFile(path, KIND, follow=False)
        self.keys = ByteColumn.read(self.file, "keys")
        self.index = KeyIndex.read(self.file)
        self.meta = self.file.meta
        self.origin: str = str(self.meta.get("origin"))
        self.row_digest = column(self.file, "row_digest", "<u8")
        columns = self.meta.get("columns")
        if not isinstance(columns, list) or not all(
            isinstance(each, dict) and isinstance(each.get("name"), str) for each in columns
        ):
            raise DamagedError(f"{path}: the table's description does not fit it")
        self._columns: list[dict[str, Any]] = columns
        if not len(self.keys) == len(self.index.hi) == len(self.row_digest):
            raise DamagedError(f"{path}: the table's description does not fit it")

    @property
    def about(self) -> dict[str, Any]:
        """Properties that are kept when the table is copied.

        ``created`` (UTC). ``generation``: [epoch, number of segments] of the plan at that time. ``reverts``: label version
        that the table undoes. ``of``: store and version it copies. ``follows``: another store, whose tables are used.
        """
        return {name: self.meta[name] for name in ABOUT if name in self.meta}

    @property
    def reverts(self) -> int | None:
        """Number (from 1) of the version that this table undoes; None if the table does not undo a version."""
        value = self.meta.get("reverts")
        return value if isinstance(value, int) else None

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns."""
        return [str(column["name"]) for column in self._columns]

    def column(self, name: str) -> Column:
        """Return the column called ``name``."""
        place = self.columns.index(name)
        kind, at = self._columns[place].get("type"), f"columns/{place}"
        types = {"text": "<i4", "int": "<i8", "float": "<f8", "bool": "|i1"}
        if kind not in types:
            raise DamagedError(f"{self.file.path}: the column {name} is of the unknown type {kind!r}")
        values = column(self.file, f"{at}/values", types[kind])
        if len(values) != len(self.keys):
            raise DamagedError(f"{self.file.path}: the column {name} is damaged")
        if kind == "text":
            categories = tuple(
                item.decode("utf-8", "surrogateescape") for item in ByteColumn.read(self.file, f"{at}/categories")
            )
            if len(values) and not -1 <= int(values.min()) <= int(values.max()) < len(categories):
                raise DamagedError(f"{self.file.path}: the column {name} has codes without a text")
            return Column("text", values, categories)
        valid = column(self.file, f"{at}/valid", "|b1") if kind == "int" else None
        if valid is not None and len(valid) != len(values):
            raise DamagedError(f"{self.file.path}: the column {name} is damaged")
        return Column(kind, values, (), valid)


def row_digests(columns: Mapping[str, Sequence[Value]], n: int) -> NDArray[np.uint64]:
    """Return a hash of the values in each row, (n,) uint64, to detect changes in the source of the pictures."""
    names = sorted(columns)
    digest = bytearray()
    # Many pictures share few distinct labels and splits, so hash each distinct row once. Only for rows of texts: True,
    # 1 and 1.0 are equal keys of a dict, but must hash differently.
    known: dict[tuple[Value, ...], bytes] = {}
    texts = all(set(map(type, column)) <= {str, type(None)} for column in columns.values())
    for row in zip(*(columns[name] for name in names), strict=True) if names else ((),) * n:
        if texts and row in known:
            digest += known[row]
            continue
        # ascii(), because metadata may contain NaN and lone surrogates, which JSON and UTF-8 cannot represent.
        text = ascii([(name, value) for name, value in zip(names, row, strict=True) if value is not None])
        made = hashlib.blake2b(text.encode(), digest_size=8).digest()
        digest += made
        if texts:
            known[row] = made
    return np.frombuffer(bytes(digest), "<u8")


def folder(store: Path, epoch: int) -> Path:
    """Return the folder of the tables."""
    return store / folders.TABLES / f"{epoch:06d}"


def table_path(store: Path, epoch: int, version: int) -> Path:
    """Return the path of table file number ``version``."""
    return folder(store, epoch) / f"{version:06d}.h5"


def write_table(
    path: Path,
    keys: Sequence[bytes],
    columns: Mapping[str, Sequence[Value] | Column],
    origin: Origin,
    row_digest: NDArray[np.uint64] | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    exclusive: bool = True,
) -> None:
    """Write a table; raise FileExistsError if another process took its version. The keys must be distinct.

    ``about``: further properties of the table (see Table.about). ``exclusive`` False replaces a damaged table.
    """
    n = len(keys)
    if row_digest is None:
        row_digest = np.zeros(n, np.uint64)
    arrays: dict[str, NDArray[Any]] = {
        **ByteColumn.of(keys).arrays("keys"),
        **KeyIndex.build(digests(keys)).arrays(),
        "row_digest": row_digest,
    }
    described = []
    for place, (name, values) in enumerate(columns.items()):
        column = values if isinstance(values, Column) else Column.of(values)
        at = f"columns/{place}"
        arrays[f"{at}/values"] = column.values
        if column.type == "text":
            arrays.update(
                ByteColumn.of(c.encode("utf-8", "surrogateescape") for c in column.categories).arrays(
                    f"{at}/categories"
                )
            )
        if column.valid is not None:
            arrays[f"{at}/valid"] = column.valid
        described.append({"name": name, "type": column.type})
    store = path.parent.parent.parent
    folders.make(store, folders.TABLES, path.parent.name)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    meta = {"created": created, **(about or {}), "origin": origin, "columns": described}
    sealed.write(path, KIND, arrays, meta, {"rows": n}, exclusive=exclusive)
    written.mark(store, path)


def copy_rows(path: Path, table: Table, rows: NDArray[np.int64], about: Mapping[str, Any]) -> None:
    """Write the ``rows`` of ``table`` as a new table; further parameters and errors as in write_table."""
    taken = {name: table.column(name).take(rows) for name in table.columns}
    # Build text columns again, so that the categories contain only texts that a row uses.
    columns = {n: Column.of(part.objects().tolist()) if part.type == "text" else part for n, part in taken.items()}
    origin: Any = table.origin
    write_table(path, list(table.keys.take(rows)), columns, origin, table.row_digest[rows], about=about)


class Tables:
    """The tables of one epoch (a state of the store that lasts until the next compaction), at the time of opening.

    Attributes
    ----------
    own : list of Table
        The tables in the store itself.
    follows : dict or None
        The other store whose tables are used: ``store`` (path), ``relative`` (path from this store), ``store_id``.
    store_id : str or None
        Id of the followed store.
    followed : Path or None
        Path at which the followed store was found.
    lost : str
        Reason and remedy, without the path of this store, if the followed store was not found; otherwise "".
    """

    def __init__(self, store: Path, epoch: int, *, follow: bool = True) -> None:
        paths = written.numbered(store, folders.TABLES, epoch, "a version of the tables")
        self.own = [Table(path) for path in paths]
        reference = self.own[0].meta.get("follows") if self.own else None
        self.follows: dict[str, Any] | None = reference if isinstance(reference, dict) else None
        self.store_id = None if self.follows is None else str(self.follows.get("store_id"))
        self.path, self.lost = store, ""
        self.followed: Path | None = None
        self._versions = self.own if self.follows is None or not follow else self._followed(store, self.follows)

    def _followed(self, store: Path, reference: dict[str, Any]) -> list[Table]:
        """Return the tables of the followed store, from its recorded path or from its path relative to this store."""
        places = [Path(str(reference.get("store"))), Path(os.path.abspath(store), str(reference.get("relative")))]
        for place in places:
            with contextlib.suppress(UsageError, OSError):
                # The id must match: a store cannot reveal labels of another store whose id its maker did not know.
                if Manifest.read(place).store_id == self.store_id:
                    self.followed = place
                    return settled(place, functools.partial(_own_tables, place))[1].own
        remedy = f"if it moved: featstore extract ITS_PLACE {store} --follow"
        self.lost = f"has the labels of {places[0]}, which is not there any more; {remedy}"
        return []

    @property
    def versions(self) -> list[Table]:
        """The tables of all versions, oldest first. Raises UsageError if the followed store was not found."""
        if self.lost:
            raise UsageError(f"{self.path}: {self.lost}")
        return self._versions

    @property
    def version(self) -> int:
        """Number of label versions so far (one table file each)."""
        return len(self.versions)

    @property
    def in_force(self) -> list[Table]:
        """The tables whose values are used, oldest first: all except undone tables and tables that undo another one."""
        undone = {table.reverts for table in self.versions}
        return [
            table for version, table in enumerate(self.versions, 1) if table.reverts is None and version not in undone
        ]

    @property
    def layers(self) -> list[Table]:
        """The tables whose values are used, by increasing precedence: first those of sources, then the user's."""
        tables = self.in_force
        return [t for t in tables if t.origin != "user"] + [t for t in tables if t.origin == "user"]

    def until(self, version: int) -> Tables:
        """Return the tables in their state after ``version`` label versions."""
        earlier = copy.copy(self)
        earlier._versions = self.versions[:version]
        return earlier

    @property
    def columns(self) -> list[str]:
        """Names of all columns, label and split first."""
        names = dict.fromkeys([LABEL, SPLIT])
        for table in self.in_force:
            names.update(dict.fromkeys(table.columns))
        return list(names)

    def source_rows(self, digest: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
        """Return two arrays (m,) for key digests: whether tables of origin "source" have the key, and its newest row
        hash.
        """
        known, value = np.zeros(len(digest), bool), np.zeros(len(digest), np.uint64)
        for table in reversed([t for t in self.versions if t.origin == "source"]):
            missing = np.flatnonzero(~known)
            rows = table.index.find(digest[missing])
            hit = rows >= 0
            known[missing[hit]], value[missing[hit]] = True, table.row_digest[rows[hit]]
        return known, value


def _own_tables(store: Path, manifest: Manifest) -> Tables:
    return Tables(store, manifest.epoch, follow=False)
