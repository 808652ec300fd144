"""Reading a store: vectors, keys, labels and failures of its live pictures (those that are not retired)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.columns import column
from featstore.errors import UsageError
from featstore.store import folders, tables
from featstore.store.features import FeatureArray, FeatureBlocks
from featstore.store.identity import Identity
from featstore.store.ids import Ids
from featstore.store.key_matches import meant, other_forms, without_vector
from featstore.store.keys import KeyIndex
from featstore.store.live_rows import LiveRows
from featstore.store.manifest import Manifest, settled
from featstore.store.past import At, Missing, open_past
from featstore.store.places import place_of
from featstore.store.plan import Plan, Unit
from featstore.store.region_views import Regional
from featstore.store.rows import COLUMNS
from featstore.store.shards import Failure, Shard
from featstore.store.tables import Tables
from featstore.store.views import Converted, Counts, Keys
from featstore.text import did_you_mean, natural, to_bytes, to_text

BLOCK_ROWS = 8192

_LOOKED_UP: Final = 65_536
"""Number of rows of a label table to look up in the store at once; this bounds the memory of the lookup."""


class FeatureStore(Converted, Regional):
    """A store of feature vectors, opened for reading with ``FeatureStore.open``.

    The live pictures that have a vector are the rows 0 to len - 1, in the order of their ids.
    An open store does not change: open it again to see what another process added or compacted. If the store has more
    than ``defaults.HELD_SHARDS`` shards, a compaction makes later reads fail with a FeatstoreError.

    Attributes
    ----------
    path: the folder.
    identity: the Identity of the features.
    store_id: random name of the store, never changes.
    keys: n texts (see Keys). ids: (n,) int64. labels, splits: (n,) objects, text or None.
    missing: the pictures of the opened past state that were purged later (see ``open``).
    """

    def __init__(self, path: str | Path, *, partial: bool = False, at: At | None = None) -> None:
        self.path = Path(path)
        self._partial, self._at, self.missing = partial, at, Missing()
        self._manifest, (self._plan, self._tables, self._live) = settled(self.path, self._read)
        self.identity: Identity = self._manifest.identity
        self.store_id = self._manifest.store_id
        self._columns: dict[str, NDArray[np.object_]] = {}

    def _read(self, manifest: Manifest) -> tuple[Plan, Tables, LiveRows]:
        folders.check(self.path)
        plan, tables = Plan(self.path, manifest.epoch), Tables(self.path, manifest.epoch)
        if self._at is not None:
            plan, tables, self.missing = open_past(self.path, manifest, plan, tables, self._at)
        return plan, tables, LiveRows(self.path, manifest.identity, plan, partial=self._partial)

    @classmethod
    def open(
        cls, path: str | Path, *, partial: bool = False, at: At | None = None, missing: str = "raise"
    ) -> FeatureStore:
        """Open the store at ``path`` in its current state or a past one.

        ``partial``: also show the rows of unfinished units that an extraction has written so far; the extraction may
        still be running. These rows are copied into memory when the store is opened, at most 512 MiB per unit.

        ``at``: show rows, labels and splits of a past state, given in one of four ways. The file of a head or an index
        that was made from this store: the state that it used. A generation: a tuple of two or three numbers, such
        as the attribute ``generation``. An int: the number of a label version; 0 means the state before the first one.
        A date: a datetime or an ISO text. A date without a time zone is in local time; a day without a time means the
        end of that day. If several states have the given generation or label version, the last of them is shown;
        pictures that were planned by then and extracted later are included. A compaction keeps past states, but purges
        the vectors of retired rows. If a state lacks vectors, ``missing="raise"`` raises UsageError, and
        ``missing="skip"`` shows the rows that still have a vector; the attribute ``missing`` lists the purged pictures.

        Raises UsageError if there is no store or no such state, DamagedError if it is damaged.
        """
        store = cls(path, partial=partial, at=at)
        store.missing.check(store.path, missing)
        return store

    def __len__(self) -> int:
        return len(self._live)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; returned arrays stay valid. A ``with`` block calls this at its end."""
        self._live.shards.close()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d): number of vectors, and their dimension."""
        return len(self), self.dimension

    @property
    def dimension(self) -> int:
        """Dimension d of the vectors."""
        return self.identity.dimension

    def __repr__(self) -> str:
        made = f"{self.dimension} {self.identity.dtype}, {self.identity.backbone}"
        return f"<FeatureStore {str(self.path)!r}: {len(self):,} x {made}>"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity (backbone, weights, preprocessing, ...), as 64 hexadecimal digits."""
        return self.identity.fingerprint

    @property
    def weights_name(self) -> str:
        """Name of the weights at the time of extraction: a published name, a file name, or "random:SEED"."""
        return self._manifest.weights_name

    @property
    def columns(self) -> list[str]:
        """The column names that ``column`` accepts, label and split included.

        A store with regions also has parent, x, y, w and h; a metadata column with one of these names gets an
        underscore appended.
        """
        if not self.has_regions:
            return self._tables.columns
        return [f"{name}_" if name in COLUMNS else name for name in self._tables.columns] + list(COLUMNS)

    @property
    def generation(self) -> tuple[int, int, int]:
        """Tuple of three counts: compactions, plan segments of the current epoch, and finished units.

        While the three counts are the same, the rows are the same. A store opened with ``partial=True`` is an
        exception: rows of unfinished units are not counted.
        """
        return (*self._plan.generation, len(self._live.finished) - len(self._live.shards.unfinished))

    @property
    def counts(self) -> Counts:
        """Numbers of live pictures: all, with a vector, failed, and pending."""
        images, failures = len(self._plan), self._live.failures
        return Counts(images, len(self), failures, images - len(self) - failures)

    @property
    def units(self) -> list[Unit]:
        """All units (row ranges) of the plan, with and without a shard."""
        return self._live.units

    def _pending_units(self) -> list[Unit]:
        """Return the units (row ranges) that have no shard yet."""
        done = {unit.number for unit in self._live.finished} - self._live.shards.unfinished.keys()
        return [unit for unit in self.units if unit.number not in done]

    # Methods about rows, ids and keys

    def _checked(self, rows: Any) -> NDArray[np.int64]:
        value = np.asarray(rows)
        if value.dtype == bool:
            value = np.flatnonzero(value)
        value = value.astype(np.int64).reshape(-1)
        if value.size and (value.min() < 0 or value.max() >= len(self)):
            asked = f"{int(value.min()):,} to {int(value.max()):,}"
            raise UsageError(f"{self.path}: rows 0 to {len(self) - 1:,} are there, not {asked}")
        return value

    @property
    def ids(self) -> Ids:
        """Ids (n,) int64 of the rows, ascending."""
        return self._live.gather("ids", None, (), np.int64)

    @property
    def sha256(self) -> NDArray[np.uint8]:
        """(n, 32) uint8: SHA-256 of each picture's bytes."""
        return self._live.gather("sha256", None, (32,), np.uint8)

    @property
    def keys(self) -> Keys:
        """Keys of the pictures, in the order of the rows."""
        return Keys(self)

    def _key_bytes(self, rows: NDArray[np.int64] | None) -> Iterator[bytes]:
        return self._live.keys(rows)

    def index_of(self, keys: Sequence[str | bytes], *, missing: str = "raise") -> NDArray[np.int64]:
        """Return the row of each key, (m,). Raise UsageError for a key without a vector; -1 with ``missing="mark"``.

        Before UsageError is raised, other spellings of the key are searched (see KeyMatches).
        """
        encoded = [key if isinstance(key, bytes) else to_bytes(key) for key in column(keys, "keys")]
        rows = self.rows_of_ids(self._plan.find_keys(encoded))
        if missing == "raise" and (rows < 0).any():
            encoded = other_forms(self._plan, encoded)
            rows = self.rows_of_ids(self._plan.find_keys(encoded))
        if missing == "raise" and (rows < 0).any():
            raise UsageError(f"{self.path}: {without_vector(self._plan, encoded, rows, self.keys)}")
        return rows

    def rows_of_ids(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of each id; -1 for an id without a live vector."""
        return self._live.of_ids(ids)

    def features(
        self, split: str | None = None, *, rows: Any = None, memory_limit: int = defaults.MEMORY_LIMIT
    ) -> FeatureArray:
        """Return vectors (n, d) that carry the store's identity: all rows, the rows of one ``split``, or ``rows``.

        The array is a read-only memory map if the store is a single shard and all rows are requested, otherwise a copy.
        Raises UsageError if a copy needs more than ``memory_limit`` bytes, or if the split does not exist.
        """
        wanted = self.split_rows(split) if split is not None else None if rows is None else self._checked(rows)
        parts = list(self._live.parts(None)) if wanted is None and len(self._live.finished) == 1 else []
        if len(parts) == 1 and isinstance(parts[0][2], slice):
            return FeatureArray(parts[0][0].features, self.identity)
        n = len(self) if wanted is None else len(wanted)
        need = n * self.dimension * self.identity.numpy_dtype.itemsize
        if need > memory_limit:
            raise UsageError(
                f"{self.path}: {n:,} vectors need {need / 2**30:.1f} GiB of memory, more than the limit of {memory_limit / 2**30:.1f} GiB; "
                "stream them with store.blocks(), or raise memory_limit"
            )
        vectors = self._live.gather("features", wanted, (self.dimension,), self.identity.numpy_dtype)
        return FeatureArray(vectors, self.identity)

    def blocks(self, rows: Any = None, *, block_rows: int = BLOCK_ROWS) -> Iterator[FeatureArray]:
        """Yield the vectors of ``rows`` (None: all, in order) as arrays of at most (block_rows, d): memory does not grow with the store."""
        wanted = None if rows is None else self._checked(rows)
        for block in self._live.blocks(wanted, block_rows, self.dimension, self.identity.numpy_dtype):
            yield FeatureArray(block, self.identity)

    def stream(self, rows: Any = None, *, block_rows: int = BLOCK_ROWS) -> FeatureBlocks:
        """Return the vectors of ``rows`` as FeatureBlocks: a shape, and arrays that are read one after the other."""
        return FeatureBlocks(self, None if rows is None else self._checked(rows), block_rows)

    def path_of(self, key: str | bytes, *, root: str | Path | None = None) -> Path:
        """Return the path of the picture of ``key``: its file, or the archive or table that contains it.

        ``root``: the present folder of the pictures, if they were moved since the store was made. The file may no
        longer exist. Raises UsageError for a key that the store does not know.
        """
        name = key if isinstance(key, bytes) else key.encode("utf-8", "surrogateescape")
        place = place_of(self._plan, name)
        if place is None:
            told = meant(self._plan, name, self.keys)
            raise UsageError(f"{self.path}: no picture has the key {to_text(name)!r}{told}")
        return place.path(root)

    # Methods about labels, splits and metadata

    def column(self, name: str) -> NDArray[np.object_]:
        """Return one of ``columns``, (n,) objects, None where missing. Raises UsageError if there is no such column."""
        if name not in self.columns:
            raise UsageError(
                f"{self.path}: no column {name!r}; there are {', '.join(self.columns)}{did_you_mean(name, self.columns)}"
            )
        if self.has_regions and name in COLUMNS:
            return self._region_column(name)
        name = name if name in self._tables.columns else name[:-1]
        if name not in self._columns:
            values = np.full(len(self), None, object)
            for table in self._tables.layers:
                if name in table.columns:
                    rows, column = self._rows_of_digests(table.index), table.column(name)
                    for start in range(0, len(rows), _LOOKED_UP):
                        part = rows[start : start + _LOOKED_UP]
                        known = np.flatnonzero(part >= 0)
                        values[part[known]] = column.take(start + known).objects()
            self._columns[name] = values
        return self._columns[name]

    def _rows_of_digests(self, index: KeyIndex) -> NDArray[np.int64]:
        """Return the store's row of each key in ``index``, a table's lookup of keys; -1 for a key without a vector."""
        rows = np.full(len(index.hi), -1, np.int64)
        places = index.places()
        # Look up in the order of the digests: neighbouring digests share memory pages of the plan's lookup.
        for start in range(0, len(rows), _LOOKED_UP):
            part = slice(start, start + _LOOKED_UP)
            found = self._plan.find(np.stack([index.hi[part], index.lo[part]], axis=1))
            rows[places[part]] = self.rows_of_ids(found)
        return rows

    @property
    def labels(self) -> NDArray[np.object_]:
        """(n,) objects: the label of each row, or None. NumPy cannot sort None: ``classes`` has the unique labels."""
        return self.column(tables.LABEL)

    @property
    def classes(self) -> list[str]:
        """The distinct labels in natural order (1, 2, 10)."""
        return sorted({str(label) for label in self.labels if label is not None}, key=natural)

    @property
    def splits(self) -> NDArray[np.object_]:
        """(n,) objects: the split of each row, or None."""
        return self.column(tables.SPLIT)

    def split_rows(self, split: str) -> NDArray[np.int64]:
        """Return the rows of ``split``. Raises UsageError that lists the existing splits if no row has this split."""
        rows = np.flatnonzero(self.splits == split)
        if not rows.size:
            there = sorted({str(value) for value in self.splits if value is not None}, key=natural)
            raise UsageError(
                f"{self.path}: no pictures of split {split!r}; the splits are: {', '.join(there) or 'none'}{did_you_mean(split, there)}"
            )
        return rows

    # Methods about failed pictures

    def failures(self) -> list[tuple[str, Failure]]:
        """Return (key, Failure) of the live pictures that could not be read."""
        return [(to_text(key), failure) for key, failure in self._live.failed()]

    def failed_ids(self) -> Ids:
        """Return the ids of the live pictures that could not be read."""
        return np.array([failure.id for _, failure in self._live.failed()], np.int64)

    def provenance(self) -> dict[int, list[dict[str, Any]]]:
        """Return how each finished unit's vectors were made: engine, device, versions, host, time."""
        return {unit.number: self._live.shards[unit.number].provenance for unit in self._live.finished}

    def _content(self, ids: Ids) -> NDArray[np.uint8]:
        """Return the SHA-256 of the bytes of each id's picture, (m, 32) uint8; zeros if the bytes were never read."""
        return self._live.content(ids)

    def journaled(self) -> int:
        """Return the number of extracted pictures in pending units; they become rows when their unit is finished."""
        from featstore.store.unfinished import count_unfinished

        return count_unfinished(self.path, self._plan, self._pending_units(), self.identity)

    def _shard(self, unit: Unit) -> Shard:
        """Return a unit's shard. Raises UsageError if the unit is unfinished, FeatstoreError if it was compacted."""
        shard = self._live.shards[unit.number]
        if not isinstance(shard, Shard):
            raise UsageError(f"{self.path}: unit {unit.number} has no shard yet; run the same featstore extract again")
        return shard
