"""Several stores as one: features of the same pictures by different backbones, concatenated (an ensemble)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from featstore.errors import IdentityError, UsageError
from featstore.files import atomic
from featstore.store import FeatureStore
from featstore.store.origin import STACKED, Origin, origin_of_store
from featstore.text import counted

_KEYS = 65536
"""Number of keys to look up at once."""
_BLOCK_ROWS = 8192


class StackedBlocks:
    """Vectors of several stores, concatenated along the features and read as (b, d) arrays; may be read repeatedly.

    Attributes: ``shape`` (n, d), ``dtype``.
    """

    def __init__(self, stores: Sequence[FeatureStore], rows: Sequence[NDArray[np.int64]]) -> None:
        self._stores, self._rows = stores, rows
        self.shape = (len(rows[0]), sum(store.dimension for store in stores))
        self.dtype = np.result_type(*(store.identity.numpy_dtype for store in stores))

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the concatenated vectors of the rows in order, in blocks."""
        for start in range(0, self.shape[0], _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            yield np.concatenate(
                [store.features(rows=rows[part]) for store, rows in zip(self._stores, self._rows, strict=True)], axis=1
            )


class StackedStores:
    """One store, or several with concatenated features; rows, labels and splits are those of the ``first`` store.

    ``whole`` (n,) bool: for each row of the first store, whether every other store has a vector too. Raises UsageError
    if the bytes of a picture differ between stores.
    """

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self.stores = list(stores)
        self.first = self.stores[0]
        self._rows = [np.arange(len(self.first))] + [rows_of_same(self.first, other) for other in self.stores[1:]]
        self.whole = np.logical_and.reduce([rows >= 0 for rows in self._rows])

    @classmethod
    def open(cls, paths: Iterable[str | os.PathLike[str]]) -> StackedStores:
        """Open the stores at ``paths``. Raises UsageError if there is no store or one is named twice, DamagedError if
        one is damaged.
        """
        stores = [FeatureStore.open(Path(path)) for path in paths]
        if not stores:
            raise UsageError("there is no store to read; name one")
        known = {store.store_id for store in stores}
        if len(known) < len(stores):
            raise UsageError("one store is named twice; an ensemble is of different stores")
        return cls(stores)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def dimension(self) -> int:
        """Dimension of the concatenated features."""
        return sum(store.dimension for store in self.stores)

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the single store; for several stores, the list of all identities under the key STACKED."""
        identities = [store.identity.to_dict() for store in self.stores]
        return identities[0] if len(identities) == 1 else {STACKED: identities}

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the single store, or the SHA-256 of the canonical JSON of all identities."""
        if len(self.stores) == 1:
            return self.first.fingerprint
        return hashlib.sha256(atomic.canonical_json(self.identity).encode()).hexdigest()

    @property
    def origin(self) -> dict[str, Any]:
        """Origin of the features, as stored in a head's ``meta``."""
        origins = [origin_of_store(store).to_dict() for store in self.stores]
        return origins[0] if len(origins) == 1 else {STACKED: origins}

    def require_whole(self) -> None:
        """Raise UsageError if another store lacks vectors of pictures of the first store; the message says how many."""
        for store, rows in zip(self.stores, self._rows, strict=True):
            lacking = np.flatnonzero(rows < 0)
            if len(lacking):
                raise UsageError(
                    f"{store.path}: lacks {len(lacking):,} of the {len(self):,} pictures of {self.first.path} (the first: "
                    f"{self.first.keys[int(lacking[0])]!r}); extract the same pictures into both"
                )

    def notes(self) -> list[str]:
        """Return warnings about pictures that are left out because the first store does not have them."""
        beyond = (
            (store, len(store) - int((rows >= 0).sum())) for store, rows in zip(self.stores, self._rows, strict=True)
        )
        return [
            f"{store.path} has {counted(more, 'picture')} that {self.first.path} lacks: left out"
            for store, more in beyond
            if more
        ]

    def digest(self, rows: NDArray[np.int64], targets: Sequence[str] | None = None) -> str:
        """Return the XXH3-128 of ids, labels and vectors of ``rows`` of the first store.

        ``targets``: texts (m,) in place of the labels. Each row must have a vector in every store.
        """
        digest = xxhash.xxh3_128()
        digest.update(np.ascontiguousarray(self.first.ids[rows], "<i8").data)
        for label in self.first.labels[rows].tolist() if targets is None else targets:
            digest.update(b"" if label is None else str(label).encode("utf-8", "surrogateescape"))
            digest.update(b"\0")
        for block in self.stream(rows).blocks():
            digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    def stream(self, rows: NDArray[np.int64]) -> Any:
        """Return the concatenated vectors of ``rows`` of the first store as a stream that uses constant memory.

        Each row must have a vector in every store.
        """
        if len(self.stores) == 1:
            return self.first.stream(rows)
        return StackedBlocks(self.stores, [known[rows] for known in self._rows])

    def features(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return the concatenated vectors of ``rows`` of the first store as an (m, d) array.

        Each row must have a vector in every store.
        """
        parts = [store.features(rows=known[rows]) for store, known in zip(self.stores, self._rows, strict=True)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def match_origins(origins: Sequence[Origin], stores: Sequence[FeatureStore], what: str) -> list[FeatureStore]:
    """Return ``stores`` in the order of a head's ``origins``, matched by fingerprint.

    ``what`` names the head in messages. Raises UsageError if the numbers of stores and origins differ, IdentityError if
    the features of a store match none of the origins.
    """
    if len(origins) == 1 == len(stores):
        return list(stores)
    backbones = " and ".join(origin.identity.backbone for origin in origins)
    if len(origins) != len(stores):
        raise UsageError(
            f"{what}: was trained on features of {len(origins)} store{'s' * (len(origins) > 1)} ({backbones}), and "
            f"{len(stores)} {'is' if len(stores) == 1 else 'are'} named; name one store of each"
        )
    left, found = list(stores), []
    for origin in origins:
        match = next((store for store in left if store.fingerprint == origin.identity.fingerprint), None)
        if match is None:
            others = ", ".join(str(store.path) for store in left)
            raise IdentityError(
                f"{what}: was trained on features of {backbones}; none of {others} has those of "
                f"{origin.identity.backbone} as the head knows them; extract with the head's backbones"
            )
        left.remove(match)
        found.append(match)
    return found


def rows_of_same(first: FeatureStore, other: FeatureStore) -> NDArray[np.int64]:
    """Return for each row of ``first`` the row of ``other`` with the same key, or -1.

    Raises UsageError if the bytes of a picture differ between the two stores.
    """
    keys, parts = first._key_bytes(None), []
    while chunk := list(islice(keys, _KEYS)):
        parts.append(other.index_of(chunk, missing="mark"))
    rows = np.concatenate(parts) if parts else np.empty(0, np.int64)
    there = np.flatnonzero(rows >= 0)
    ours, theirs = first.sha256[there], other.sha256[rows[there]]
    # A digest of zeros means unknown bytes, as for imported rows.
    differ = there[(ours != theirs).any(axis=1) & ours.any(axis=1) & theirs.any(axis=1)]
    if len(differ):
        raise UsageError(
            f"{other.path}: {len(differ):,} of the {len(there):,} pictures that it shares with {first.path} have other bytes "
            f"there (the first: {first.keys[int(differ[0])]!r}); extract both from the same pictures"
        )
    return rows
