"""The versions of a store's labels, splits and metadata: list them, and undo the last one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import FeatstoreError, UsageError
from featstore.store import tables
from featstore.store.claims import Claims
from featstore.store.manifest import Manifest, settled
from featstore.store.plan import Plan
from featstore.store.requires import require
from featstore.store.tables import Table, Tables

UNDO = "undo"
"""Entry in the manifest's ``requires``, so that an older featstore, which ignores undos, refuses the store."""
_BLOCK_ROWS = 65536


@dataclass(frozen=True)
class Version:
    """A version of the labels, splits and metadata.

    ``version``: its number, from 1. ``created``: time (UTC). ``origin``: "source" (read with the pictures), "user"
    (``featstore label``) or "undo". ``rows``: number of keys in its table. ``changed``: number of these keys whose
    values it changed. ``columns``: columns that it set. ``reverts``: for an undo, number of the version that it undid.
    ``undone_by``: number of the later version that undid this version, or None.
    """

    version: int
    created: str
    origin: str
    rows: int
    changed: int
    columns: list[str]
    reverts: int | None = None
    undone_by: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the label version as JSON types."""
        return asdict(self)


def label_history(store: str | os.PathLike[str]) -> list[Version]:
    """Return the versions of a store's labels, the oldest first. Raises UsageError if there is no store, DamagedError
    if it is damaged.
    """
    path = Path(store)
    found = settled(path, lambda manifest: Tables(path, manifest.epoch))[1]
    undone = {table.reverts: version for version, table in enumerate(found.versions, 1) if table.reverts is not None}
    history = []
    for version, table in enumerate(found.versions, 1):
        # The table of an undo has no rows: count the rows of the version that it undoes.
        of = table if table.reverts is None else found.versions[table.reverts - 1]
        history.append(
            Version(
                version,
                str(table.meta.get("created", "")),
                table.origin if table.reverts is None else UNDO,
                len(of.keys),
                _changed(of, found.until(version - 1).layers, found.until(version).layers),
                of.columns,
                table.reverts,
                undone.get(version),
            )
        )
    return history


def _changed(table: Table, before: Sequence[Table], after: Sequence[Table]) -> int:
    """Return the number of keys in ``table`` whose values differ between two lists of tables."""
    changed = 0
    digest = table.index.digest()
    for start in range(0, len(digest), _BLOCK_ROWS):
        part = digest[start : start + _BLOCK_ROWS]
        differs = np.zeros(len(part), bool)
        for name in table.columns:
            was, now = _values(name, part, before), _values(name, part, after)
            differs |= np.array([a != b for a, b in zip(was.tolist(), now.tolist(), strict=True)], bool)
        changed += int(differs.sum())
    return changed


def _values(name: str, digest: NDArray[np.uint64], layers: Sequence[Table]) -> NDArray[np.object_]:
    values = np.full(len(digest), None, object)
    for table in layers:
        if name in table.columns:
            rows = table.index.find(digest)
            known = np.flatnonzero(rows >= 0)
            values[known] = table.column(name).take(rows[known]).objects()
    return values


def undo_label(store: str | os.PathLike[str]) -> Version:
    """Undo the last labelling by adding a version with the labels, splits and metadata from before that labelling.

    The newest version of ``featstore label`` that is not undone yet is undone; another call undoes the one before it.
    Values that were read with the pictures (``featstore extract``) are not undone. Raises UsageError if there is
    nothing to undo.
    """
    path = Path(store)
    Manifest.read(path)
    with Claims(path) as claims:
        claims.join()
        manifest = Manifest.read(path)
        while True:
            found = Tables(path, manifest.epoch)
            if found.follows is not None:
                raise UsageError(f"{path}: has the labels of {found.follows['store']}: undo there instead")
            mine = [table for table in found.in_force if table.origin == "user"]
            if not mine:
                raise UsageError(f"{path}: no labelling is left to undo (featstore label {path} --history lists all)")
            reverts = found.versions.index(mine[-1]) + 1
            require(path, UNDO)
            about = {"reverts": reverts, "generation": Plan(path, manifest.epoch).generation}
            try:
                file = tables.table_path(path, manifest.epoch, found.version)
                tables.write_table(file, [], {}, "user", about=about)
                break
            except FileExistsError:
                continue
        if Manifest.read(path).epoch != manifest.epoch:
            raise FeatstoreError(
                f"{path}: was compacted while a labelling was undone; look at --history, and undo again"
            )
    return label_history(path)[found.version]
