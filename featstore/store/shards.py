"""Shards: one immutable, checksummed HDF5 file per finished unit (row range), with its vectors and failures."""

from __future__ import annotations

import errno
import functools
import mmap
import os
import re
import resource
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.files import sealed
from featstore.files.byte_columns import ByteColumn, column
from featstore.store import folders, written
from featstore.store.identity import Identity
from featstore.store.ids import Ids
from featstore.store.keys import KeyIndex, digests
from featstore.store.plan import UNITS_OF_EPOCH

KIND = "shard"


@dataclass(frozen=True)
class Failure:
    """A picture without a vector: its id, a short stable ``reason`` ("truncated"), and a ``message`` for people."""

    id: int
    reason: str
    message: str


@dataclass(frozen=True)
class Finished:
    """Content of a unit's shard except the vectors; row i of each column belongs to vector i.

    ``ids`` (n,), ``views`` (n,), ``keys`` n, ``sha256`` (n, 32) uint8 of the pictures' bytes, ``failures`` with
    ``failed_keys`` and ``failed_sha256`` (zeros if the bytes could not be read).
    """

    unit: int
    ids: Ids
    views: NDArray[np.uint32]
    keys: Sequence[bytes]
    sha256: NDArray[np.uint8]
    failures: Sequence[Failure]
    failed_keys: Sequence[bytes]
    failed_sha256: NDArray[np.uint8]


def folder(store: Path) -> Path:
    """Return the folder of the shards."""
    return store / folders.SHARDS


def shard_path(store: Path, unit: int) -> Path:
    """Return the path of a unit's shard. The file name is the epoch of the unit and the unit's number in this epoch."""
    epoch, number = divmod(unit, UNITS_OF_EPOCH)
    return folder(store) / f"{epoch:06d}-{number:08d}.h5"


def has_shard(store: Path, unit: int) -> bool:
    """Return whether the path of a unit's shard exists, even if it is a symbolic link."""
    return os.path.lexists(shard_path(store, unit))


def unit_of(name: str) -> int | None:
    """Return the number of the unit whose shard, or unfinished shard, has this file name; None for other names."""
    found = re.match(r"\.?([0-9]{6})-([0-9]{8,10})\.h5(\.|$)", name)
    return None if found is None else int(found[1]) * UNITS_OF_EPOCH + int(found[2])


def row_checksums(vectors: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the XXH3-64 of each row's bytes, (n,) uint64, with which damaged vectors can be found later."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, np.ascontiguousarray(vectors)), np.uint64, len(vectors))


def write_shard(
    path: Path,
    identity: Identity,
    store_id: str,
    finished: Finished,
    blocks: Iterable[NDArray[Any]],
    provenance: Sequence[dict[str, Any]],
    *,
    exclusive: bool = True,
) -> None:
    """Write a unit's shard from its vectors, ``blocks`` of (b, d) each.

    Raises FileExistsError if the shard exists. With ``exclusive`` False, an existing, damaged shard is replaced.
    """
    n = len(finished.ids)
    checksums: list[NDArray[np.uint64]] = []

    def summed() -> Iterable[NDArray[Any]]:
        for block in blocks:
            block = np.ascontiguousarray(block, identity.numpy_dtype)
            checksums.append(row_checksums(block))
            yield block

    def row_sums() -> Iterable[NDArray[np.uint64]]:
        yield from checksums

    @functools.cache
    def lookup() -> dict[str, NDArray[Any]]:
        return KeyIndex.build(digests(finished.keys, finished.views.tolist())).arrays()

    def part(name: str) -> Iterable[NDArray[Any]]:
        # Build the lookup only after the vectors are handed to the disk: both then run at the same time.
        yield lookup()[name]

    failures = finished.failures
    arrays: dict[str, NDArray[Any] | sealed.Blocks] = {
        "features": sealed.Blocks((n, identity.dimension), identity.numpy_dtype, summed()),
        "row_xxh3": sealed.Blocks((n,), np.uint64, row_sums()),
        "id": finished.ids.astype(np.uint64),
        "view": finished.views.astype(np.uint32),
        "sha256": finished.sha256,
        **ByteColumn.of(finished.keys).arrays("keys"),
        **{name: sealed.Blocks((n,), dtype, part(name)) for name, dtype in KeyIndex.DTYPES.items()},
        "failures/id": np.array([failure.id for failure in failures], np.uint64),
        **ByteColumn.of(finished.failed_keys).arrays("failures/keys"),
        **ByteColumn.of(failure.reason.encode() for failure in failures).arrays("failures/reason"),
        **ByteColumn.of(failure.message.encode("utf-8", "surrogateescape") for failure in failures).arrays(
            "failures/message"
        ),
        "failures/sha256": finished.failed_sha256,
    }
    every = np.concatenate([finished.ids, [failure.id for failure in failures]]).astype(np.int64)
    summary = {
        "unit": finished.unit,
        "vectors": n,
        "failures": len(failures),
        "first_id": int(every.min()),
        "last_id": int(every.max()),
        "fingerprint": identity.fingerprint,
    }
    meta = {"store_id": store_id, "unit": finished.unit, "identity": identity.to_dict(), "provenance": list(provenance)}
    store = path.parent.parent
    folders.make(store, folders.SHARDS)
    sealed.write(path, KIND, arrays, meta, summary, exclusive=exclusive)
    written.mark(store, path)


def provenance_of(meta: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the provenance of the vectors from a shard's ``meta``: one object per run that made some of them.

    Provenance is information for people. Malformed values are ignored, not refused.
    """
    made = meta.get("provenance")
    return [entry for entry in made if isinstance(entry, dict)] if isinstance(made, list) else []


class Shard:
    """A memory-mapped shard.

    Attributes: ``features`` (n, d), ``ids`` (n,) int64 ascending, ``keys``, ``views``, ``sha256`` (n, 32).
    """

    def __init__(self, path: Path, identity: Identity, mapped: sealed.Mapped | None = None) -> None:
        self.file = sealed.SealedFile(path, KIND, follow=False, mapped=mapped)
        if self.file.summary.get("fingerprint") != identity.fingerprint:
            raise DamagedError(
                f"{path}: this shard belongs to a store of another identity; it was put here from elsewhere"
            )
        self.features, self.views = self.file["features"], column(self.file, "view", "<u4")
        self.sha256 = column(self.file, "sha256", "|u1", 32)
        self.ids: Ids = column(self.file, "id", "<u8").view(np.int64)
        self.keys = ByteColumn.read(self.file, "keys")
        n = len(self.ids)
        expected = (n, identity.dimension), identity.numpy_dtype
        if (self.features.shape, self.features.dtype) != expected or {
            len(self.keys),
            len(self.views),
            len(self.sha256),
        } != {n}:
            raise DamagedError(f"{path}: the columns of the shard do not fit each other")

    def release(self) -> None:
        """Remove the pages of the shard that were read from this process's memory; they stay in the kernel's cache.

        The arrays stay valid. Without this, a pass over a large shard would count as memory of this process.
        """
        self.file.map.madvise(mmap.MADV_DONTNEED)

    def find(self, keys: Sequence[bytes], view: int = 0) -> NDArray[np.int64]:
        """Look up keys in this shard: return the row (m,) of each key, or -1 if the shard has no vector for the key."""
        index = KeyIndex.read(self.file)
        if len(index.hi) != len(self.ids):
            raise DamagedError(f"{self.file.path}: the lookup of the shard does not fit its rows")
        return index.find(digests(keys, [view] * len(keys)))

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """How the vectors were made: one entry (JSON) per extraction that made some of them."""
        return provenance_of(self.file.meta)

    @property
    def failed_ids(self) -> Ids:
        """Ids (m,) of the pictures that failed."""
        return column(self.file, "failures/id", "<u8").view(np.int64)

    @property
    def failed_sha256(self) -> NDArray[np.uint8]:
        """SHA-256 of the failed pictures' bytes, (m, 32) uint8; zeros if they were never read."""
        sums = self.file["failures/sha256"]
        if (sums.shape, sums.dtype) != ((len(self.failed_ids), 32), np.dtype(np.uint8)):
            raise DamagedError(f"{self.file.path}: the columns of its failures do not fit each other")
        return sums

    def failures(self) -> list[tuple[bytes, Failure]]:
        """Return the failures with their keys."""
        keys, reasons, messages = (
            ByteColumn.read(self.file, f"failures/{name}") for name in ("keys", "reason", "message")
        )
        if {len(keys), len(reasons), len(messages)} != {len(self.failed_ids)}:
            raise DamagedError(f"{self.file.path}: the columns of its failures do not fit each other")
        return [
            (key, Failure(int(number), reason.decode("utf-8", "replace"), message.decode("utf-8", "surrogateescape")))
            for number, key, reason, message in zip(self.failed_ids, keys, reasons, messages, strict=True)
        ]

    def damaged_rows(self) -> NDArray[np.int64]:
        """Return the row numbers of the vectors that do not match their checksums."""
        sums = self.file["row_xxh3"]
        bad = [
            start + np.flatnonzero(row_checksums(self.features[start : start + 4096]) != sums[start : start + 4096])
            for start in range(0, len(self.ids), 4096)
        ]
        return np.concatenate(bad) if bad else np.empty(0, np.int64)


@dataclass(frozen=True)
class Unfinished:
    """Rows in the journals of a unit that has no shard yet, in memory, with the attributes that readers of a Shard use.

    ``failed``: the failures with their keys. ``failed_sha256`` (m, 32): SHA-256 of the failed pictures' bytes.
    """

    ids: Ids
    keys: ByteColumn
    sha256: NDArray[np.uint8]
    features: NDArray[Any]
    failed: list[tuple[bytes, Failure]]
    failed_sha256: NDArray[np.uint8]
    provenance: list[dict[str, Any]]

    @property
    def failed_ids(self) -> Ids:
        """Ids (m,) of the pictures that failed."""
        return np.array([failure.id for _, failure in self.failed], np.int64)

    def failures(self) -> list[tuple[bytes, Failure]]:
        """Return the failures with their keys."""
        return self.failed


class OpenShards:
    """The shards of a store, opened on demand; the ``limit`` most recently used shards stay open.

    ``hold`` memory-maps a shard, so that the shard stays readable after a compaction removes its file. Each held shard
    needs a file descriptor, so only the first shards of a large store are held. ``unfinished``: dict from the number of
    a unit without a shard to the rows in its journals.
    """

    def __init__(self, store: Path, identity: Identity, limit: int = defaults.OPEN_SHARDS) -> None:
        self.store, self.identity, self.limit = store, identity, limit
        self.unfinished: dict[int, Unfinished] = {}
        self._closed = False
        self._open: OrderedDict[int, Shard] = OrderedDict()
        self._held: dict[int, sealed.Mapped] = {}
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = defaults.HELD_SHARDS if descriptors < 0 else min(defaults.HELD_SHARDS, descriptors // 8)

    def hold(self, unit: int) -> dict[str, Any]:
        """Map a unit's shard for later reads; return its header. Raises FileNotFoundError if there is no shard,
        DamagedError if it is damaged, OSError if it cannot be read.
        """
        path = shard_path(self.store, unit)
        if len(self._held) < self._most:
            try:
                self._held[unit], header = sealed.Mapped.open(path, KIND, follow=False)
                return header
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    raise
                self._most = 0
        return sealed.read_header(path, KIND, follow=False)

    def close(self) -> None:
        """Close all shards; later requests for a shard raise an error."""
        self._closed = True
        self._open.clear()
        self._held.clear()

    def __getitem__(self, unit: int) -> Shard | Unfinished:
        if self._closed:
            raise UsageError(f"{self.store}: was closed; open it again")
        if unit in self.unfinished:
            return self.unfinished[unit]
        shard = self._open.pop(unit, None)
        if shard is None:
            try:
                shard = Shard(shard_path(self.store, unit), self.identity, self._held.get(unit))
            except FileNotFoundError:
                raise FeatstoreError(f"{self.store}: was compacted since it was opened; open it again") from None
        self._open[unit] = shard
        while len(self._open) > self.limit:
            self._open.popitem(last=False)
        return shard
