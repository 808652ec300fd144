"""Row table of an index, by position: ids, keys, labels, and removed rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.files.byte_columns import ByteColumn
from featstore.store.identity import Identity
from featstore.store.origin import KEY


@dataclass(frozen=True)
class About:
    """The record in an index about the store from which its rows come.

    ``labels``: one text or None per row. ``identity``: identity of the features (backbone, weights, preprocessing).
    ``origin``: the store and its state, as JSON. ``generation``: generation of the store when it was read.
    """

    labels: Sequence[str | None] | None = None
    identity: Identity | None = None
    origin: Mapping[str, Any] | None = None
    generation: int = 0

    def to_record(self) -> dict[str, Any]:
        """Return fingerprint, identity, origin and generation as JSON types for the record in the index.

        The labels are left out, because they are stored with the rows.
        """
        identity = {} if self.identity is None else self.identity.to_dict()
        return {
            "fingerprint": "" if self.identity is None else self.identity.fingerprint,
            "identity": identity if self.origin is None else {**identity, KEY: dict(self.origin)},
            "generation": self.generation,
        }


@dataclass(frozen=True)
class IndexRows:
    """Table of the rows of an index, in the order of their positions in the FAISS index.

    ``ids`` int64 (n,); ``keys``: n byte strings; ``removed`` bool (n,): rows that search skips; ``labels`` int32 (n,):
    indices into ``classes``, -1 for none; None if no row has a label.
    """

    ids: NDArray[np.int64]
    keys: ByteColumn
    removed: NDArray[np.bool_]
    labels: NDArray[np.int32] | None = None
    classes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        ids: NDArray[np.integer],
        keys: ByteColumn | Iterable[bytes | str],
        labels: Sequence[str | None] | None,
        rows: int,
    ) -> IndexRows:
        """Return a table of the columns ``ids``, ``keys`` and ``labels``, after checking them.

        Raises UsageError unless each has ``rows`` entries, and the ids are distinct and from 0 to 2**63 - 1.
        """
        given = np.asarray(ids)
        table = ByteColumn.of(keys)
        counts = {"ids": given.size, "keys": len(table), "labels": rows if labels is None else len(labels)}
        for name, count in counts.items():
            if count != rows:
                raise UsageError(f"{count:,} {name} were given for {rows:,} rows")
        if given.ndim != 1 or (rows and not np.issubdtype(given.dtype, np.integer)):
            raise UsageError("ids have to be whole numbers, one a row")
        if rows and (int(given.min()) < 0 or int(given.max()) >= 1 << 63):
            raise UsageError("ids have to lie between 0 and 2**63 - 1, as FAISS stores them")
        whole = given.astype(np.int64)
        if len(np.unique(whole)) != rows:
            raise UsageError("two rows have the same id; ids have to be distinct")
        codes, classes = _coded(labels)
        return cls(whole, table, np.zeros(rows, np.bool_), codes, classes)

    def take(self, positions: NDArray[np.int64]) -> IndexRows:
        """Return the row table of the rows at ``positions``, in that order."""
        ids, keys, removed = self.ids[positions], self.keys.select(positions), self.removed[positions]
        if self.labels is None:
            return IndexRows(ids, keys, removed)
        # Drop classes that no row has any more.
        labels, classes = self.labels[positions], list(self.classes)
        used = np.unique(labels[labels >= 0])
        codes = np.full(len(classes) + 1, -1, np.int32)
        codes[used] = np.arange(len(used))
        return IndexRows(ids, keys, removed, codes[labels], tuple(classes[code] for code in used.tolist()))

    def labels_at(self, positions: NDArray[np.int64]) -> list[str | None]:
        """Return the labels (m) at ``positions`` (m,); None for rows without a label, and for position -1."""
        if self.labels is None or not len(self.labels):
            return [None] * len(positions)
        names: list[str | None] = [*self.classes, None]
        return [names[code] for code in np.where(positions >= 0, self.labels[positions], -1).tolist()]

    def relabelled(self, positions: NDArray[np.int64], labels: Sequence[str | None]) -> IndexRows:
        """Return a copy of this table with ``labels`` (m) for the rows at ``positions`` (m,); -1 is ignored."""
        every = self.labels_at(np.arange(len(self.ids)))
        for position, label in zip(positions.tolist(), labels, strict=True):
            if position >= 0:
                every[position] = label
        codes, classes = _coded(every)
        return IndexRows(self.ids, self.keys, self.removed, codes if classes else None, classes)

    def then(self, other: IndexRows) -> IndexRows:
        """Return a row table with the rows of this table, followed by the rows of ``other``."""
        classes = (*self.classes, *(name for name in other.classes if name not in self.classes))
        labels = None
        if self.labels is not None or other.labels is not None:
            places = np.array([*(classes.index(name) for name in other.classes), -1], np.int32)
            mine = np.full(len(self.ids), -1, np.int32) if self.labels is None else self.labels
            theirs = np.full(len(other.ids), -1, np.int32) if other.labels is None else places[other.labels]
            labels = np.concatenate([mine, theirs])
        return IndexRows(
            np.concatenate([self.ids, other.ids]),
            self.keys.then(other.keys),
            np.concatenate([self.removed, other.removed]),
            labels,
            classes,
        )


class Places:
    """Find the positions of rows by their ids. ``ascending`` int64 (n,): the ids in ascending order."""

    def __init__(self, ids: NDArray[np.int64]) -> None:
        # Stores assign ascending ids, so the ids are usually sorted already. Then a sorted copy is not needed.
        self._order = None if bool((ids[1:] > ids[:-1]).all()) else np.argsort(ids, kind="stable")
        self.ascending = ids if self._order is None else ids[self._order]

    def positions(self, ids: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the position (m,) of each of ``ids`` (m,), -1 for an unknown id."""
        wanted = ids.astype(np.int64)
        if not len(self.ascending):
            return np.full(len(wanted), -1, np.int64)
        places = np.searchsorted(self.ascending, wanted)
        places[places == len(self.ascending)] = 0
        positions = places if self._order is None else self._order[places]
        return np.where(self.ascending[places] == wanted, positions, -1)


def _coded(labels: Sequence[str | None] | None) -> tuple[NDArray[np.int32] | None, tuple[str, ...]]:
    if labels is None:
        return None, ()
    classes = tuple(sorted({label for label in labels if label is not None}))
    codes = {name: code for code, name in enumerate(classes)}
    return np.array([-1 if label is None else codes[label] for label in labels], np.int32), classes
