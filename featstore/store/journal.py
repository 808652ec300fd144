"""The journal of an unfinished unit: finished rows in checksummed blocks, appended and synced.

Each owner of the unit appends to its own file work/<unit>/journal.<n> and reads the files of all owners. So an owner
that was wrongly considered dead cannot damage the blocks of the next owner. A record is

    magic "FSJ1" | JSON length u32 | payload length u64 | XXH3-64 of JSON and payload u64 | JSON | payload

The JSON is {"start", "stop": rows of the unit, "failures": [[row, reason, message], ...]}. The payload is the vectors
(n, d) of the rows that did not fail, then SHA-256 (stop - start, 32). The first record of a file has no rows; its
"provenance" says how the following rows were made. A torn record, left by a kill or a full disk, ends the file.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import DamagedError
from featstore.files import atomic

_HEAD = struct.Struct("<4sIQQ")
_MAGIC = b"FSJ1"

RowFailure = tuple[int, str, str]
"""A failed picture: row in the unit, reason, message."""


@dataclass(frozen=True)
class Block:
    """Finished rows ``start`` to ``stop`` - 1 of a unit (row range).

    ``vectors`` (n, d) of the rows that did not fail, ``sha256`` (stop - start, 32) of all pictures.
    """

    start: int
    stop: int
    vectors: NDArray[Any]
    sha256: NDArray[np.uint8]
    failures: Sequence[RowFailure] = ()
    provenance: dict[str, Any] | None = None

    def ok(self) -> NDArray[np.int64]:
        """Return the rows of the unit that have a vector."""
        rows = np.ones(self.stop - self.start, bool)
        rows[[row - self.start for row, _, _ in self.failures]] = False
        return self.start + np.flatnonzero(rows)


class JournalWriter:
    """Append blocks to a new journal file and sync it every few seconds."""

    def __init__(self, path: Path, sync_seconds: float = defaults.JOURNAL_SYNC_SECONDS) -> None:
        self.path, self.sync_seconds = path, sync_seconds
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by close()
        self._synced = time.monotonic()

    def append(self, block: Block) -> None:
        """Append a block. It then survives a kill of the process, but a power failure only after the next sync."""
        value = {
            "start": block.start,
            "stop": block.stop,
            "failures": [list(f) for f in block.failures],
            "provenance": block.provenance,
        }
        text = atomic.canonical_json(value).encode()
        vectors = np.ascontiguousarray(block.vectors).reshape(-1).view(np.uint8)
        sums = np.ascontiguousarray(block.sha256).reshape(-1)
        digest = xxhash.xxh3_64(text)
        digest.update(vectors.data)
        digest.update(sums.data)
        head = _HEAD.pack(_MAGIC, len(text), vectors.nbytes + sums.nbytes, digest.intdigest())
        try:
            for part in (head + text, vectors.data, sums.data):
                view = memoryview(part).cast("B")
                while len(view):
                    view = view[self._file.write(view) :]
        except OSError as error:
            error.filename = os.fspath(self.path)
            raise
        if time.monotonic() - self._synced >= self.sync_seconds:
            self.sync()

    def sync(self) -> None:
        """Sync the journal to disk, so that the appended blocks survive a power failure."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync the journal to disk and close it; does nothing if it is closed."""
        if self._file.closed:
            return
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def read_journal(path: Path, dimension: int, dtype: np.dtype[Any]) -> list[Block]:
    """Return the complete blocks of a journal, up to the first torn record, each with the file's provenance.

    The arrays are memory-mapped.
    """
    with atomic.open_regular(path, follow=False) as file:
        size = os.fstat(file.fileno()).st_size
        if size < _HEAD.size:
            return []
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    blocks: list[Block] = []
    at = 0
    while at + _HEAD.size <= size:
        magic, json_bytes, payload_bytes, checksum = _HEAD.unpack_from(mapped, at)
        start = at + _HEAD.size
        stop = start + json_bytes + payload_bytes
        if magic != _MAGIC or stop > size:
            break
        with memoryview(mapped) as view:
            if xxhash.xxh3_64_intdigest(view[start:stop]) != checksum:
                break
        blocks.append(_block(path, mapped, start, json_bytes, payload_bytes, dimension, dtype))
        at = stop
    return [replace(block, provenance=blocks[0].provenance) for block in blocks if block.stop > block.start]


def _block(
    path: Path, mapped: mmap.mmap, start: int, json_bytes: int, payload_bytes: int, dimension: int, dtype: np.dtype[Any]
) -> Block:
    try:
        value = json.loads(mapped[start : start + json_bytes])
        first, last = int(value["start"]), int(value["stop"])
        failures = [(int(row), str(reason), str(message)) for row, reason, message in value["failures"]]
        provenance = value["provenance"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError(
            f"{path}: a journal of another format; remove the folder {path.parent} to extract this unit anew"
        ) from None
    n = last - first - len(failures)
    vectors_bytes = n * dimension * dtype.itemsize
    if (
        n < 0
        or vectors_bytes + 32 * (last - first) != payload_bytes
        or any(not first <= row < last for row, _, _ in failures)
    ):
        raise DamagedError(
            f"{path}: a journal of other features; remove the folder {path.parent} to extract this unit anew"
        )
    at = start + json_bytes
    # Records of a journal are unaligned in memory: use views of bytes, and copy only where NumPy needs aligned data.
    vectors = (
        np.frombuffer(mapped, np.uint8, vectors_bytes, at).view(dtype).reshape(n, dimension)
        if n
        else np.zeros((0, dimension), dtype)
    )
    sums = np.frombuffer(mapped, np.uint8, 32 * (last - first), at + vectors_bytes).reshape(-1, 32)
    return Block(first, last, vectors, sums, failures, provenance)


def contiguous(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that cover the unit's rows from row 0 on without gap or overlap.

    A new owner of the unit continues after these rows.
    """
    chain: list[Block] = []
    by_start: dict[int, Block] = {}
    for block in blocks:
        by_start.setdefault(block.start, block)
    reached = 0
    while (found := by_start.get(reached)) is not None:
        chain.append(found)
        reached = found.stop
    return chain


def provenance_of(chain: Sequence[Block]) -> list[dict[str, Any]]:
    """Return how the rows in the journal blocks ``chain`` were made.

    Consecutive blocks with the same provenance get one entry together.
    """
    made: list[dict[str, Any]] = []
    for maker, blocks in itertools.groupby(chain, lambda block: block.provenance):
        run = list(blocks)
        made.append({**(maker or {}), "rows": [run[0].start, run[-1].stop]})
    return made
