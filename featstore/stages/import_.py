"""Import vectors from files of other programs into a store. The module's name has an underscore because ``import`` is a
keyword.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from featstore.embed.progress import Progress
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic
from featstore.sources.vectors import EXPORT, Vectors, open_vectors
from featstore.sources.vectors.rows import read_rows
from featstore.store import FeatureStore, Identity
from featstore.store.importing import check_vectors, held_note, write_rows
from featstore.store.planner import Change
from featstore.text import counted, printable

_LONGEST_NAME: Final = 200
_OWN: Final = frozenset({"id"})
"""Columns in exports of featstore that are not imported: the new store assigns its own ids."""
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    ``change``: numbers of added, changed, removed, ... rows, as in an extraction. ``vectors``: number of vectors in the
    store now. ``written``: number of vectors that this import wrote. ``read_as``: one line on the keys, labels and
    other columns that were read. ``notes``: warnings for the user.
    """

    store: str
    identity: str
    dimension: int
    dtype: str
    vectors: int
    pending: int
    written: int
    change: Change
    read_as: str
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the import as JSON types."""
        return asdict(self)

    def text(self) -> str:
        """Return the report as text for the user."""
        change = self.change
        lines = [
            f"{self.store}: {counted(self.vectors, 'vector')} of {self.dimension:,} x {self.dtype}, imported as {printable(self.identity)}",
            f"rows: {change.listed:,} listed: {change.added:,} added, {change.changed:,} changed, {change.unchanged:,} unchanged; "
            f"{change.removed:,} removed, {change.relabelled:,} relabelled"
            + (f", {change.denied:,} left out (removed by featstore remove)" if change.denied else ""),
            f"read: {self.read_as}",
            *(f"note: {printable(note)}" for note in self.notes),
        ]
        return "\n".join(lines)


def import_vectors(
    vectors: Paths,
    store: str | os.PathLike[str],
    *,
    identity: str | None = None,
    keys: Paths = (),
    labels: Paths = (),
    split_column: str | None = None,
    array: str | None = None,
    unit_rows: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ImportReport:
    """Write ``vectors``, files of other programs, into ``store``, which is created if it is missing.

    ``vectors``: .npy, .npz, Parquet, HDF5 or flat FAISS files, or folders of such files, in order; float64 is rounded
    to float32. ``identity``: a name for the model that made the vectors, such as "openai/clip-vit-base-patch32"; a
    store contains vectors of one identity only, because other vectors are not comparable. Exports of featstore contain
    their identity. ``keys``, ``labels``, ``split_column``: see featstore.sources.vectors.rows.read_rows. ``array``:
    name of the array of vectors in the files.

    All vectors are read and checked before anything is written. Importing the same files again writes what is new or
    changed, and removes rows that are no longer in the files. Raises UsageError for NaN or infinity, different
    dimensions, duplicate keys, or different numbers of keys and vectors. Raises IdentityError if the store has other
    features; FeatstoreError or OSError if reading or writing fails.
    """
    paths, beside, named = _listed(vectors), _listed(keys), _listed(labels)
    opened = open_vectors(paths, array)
    exported = _exported(paths, opened)
    made_by, weights_name = _identity(identity, exported, opened)
    location = os.path.abspath(paths[0])
    table = Path(location) / "rows.parquet"
    if not beside and os.path.isfile(table):
        beside = [table]
    rows = read_rows(opened, location, beside, named, split_column, own=_OWN if exported else frozenset())
    n = opened.shape[0]

    def tell(done: int, note: str = "") -> None:
        if progress is not None:
            progress(Progress(done, n, 0, note))

    check_vectors(opened, rows, lambda done: tell(0, f"checked {done:,} of {n:,}"))
    done = write_rows(Path(store), made_by, weights_name, opened, rows, unit_rows=unit_rows, on_rows=tell)
    notes = [*rows.notes, *([held_note(done.held)] if done.held else [])]
    if opened.is_rounded:
        notes.append("float64 was rounded to float32")
    with FeatureStore.open(Path(store)) as result:
        counts = result.counts
        return ImportReport(
            os.fspath(store),
            made_by.backbone,
            *(opened.shape[1], made_by.dtype),
            counts.vectors,
            counts.pending,
            done.written,
            done.change,
            rows.read_as,
            notes,
        )


def _listed(paths: Paths) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _exported(paths: list[str | os.PathLike[str]], opened: Vectors) -> dict[str, Any] | None:
    """Return the description of the features if the files are an export of featstore, otherwise None."""
    folder = Path(paths[0])
    if len(paths) == 1 and (folder / EXPORT).is_file():
        found = atomic.read_json(folder / EXPORT, follow=False)
        if found.get("complete") is not True:
            raise UsageError(f"{folder}: is an unfinished export; run the same featstore export again first")
        return found
    facts = [_facts(getattr(file, "description", lambda: None)()) for file in opened.files]
    return facts[0] if all(other == facts[0] for other in facts) else None


def _facts(text: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(text or b"null")
    except (ValueError, RecursionError):
        return None
    return {name: found.get(name) for name in ("identity", "weights_name")} if isinstance(found, dict) else None


def _identity(name: str | None, exported: dict[str, Any] | None, opened: Vectors) -> tuple[Identity, str]:
    """Return the identity of the imported features, and the name of their weights."""
    d, dtype = opened.shape[1], opened.dtype.newbyteorder("=").name
    if name is None and exported:
        try:
            found, weights = Identity.from_dict(exported["identity"]), str(exported["weights_name"])
        except (DamagedError, KeyError, TypeError):
            found, weights = None, ""
        if found is not None and (found.dimension, found.dtype) == (d, dtype):
            return found, weights
    if name is None:
        raise UsageError(
            "--identity has to name what made these vectors, such as openai/clip-vit-base-patch32; "
            "features of one name are taken to be comparable"
        )
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise UsageError(f"--identity {printable(name)[:40]!r} is no name of 1 to {_LONGEST_NAME} printable characters")
    return Identity.imported(name.strip(), d, dtype), Identity.UNKNOWN
