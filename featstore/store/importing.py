"""Write rows whose vectors were made elsewhere into a store: plan them, and write the shard of each unit."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.vectors import Vectors
from featstore.sources.vectors.rows import ImportedRows
from featstore.store import shards
from featstore.store.claims import Claims
from featstore.store.denylist import DENIED_MESSAGE, DENIED_PICTURE, Denylist
from featstore.store.identity import Identity
from featstore.store.keys import KeyIndex, digests
from featstore.store.manifest import Manifest
from featstore.store.owners import Owner
from featstore.store.plan import Plan, Unit, source_name
from featstore.store.planner import Change, Planner
from featstore.store.shards import Failure, Finished
from featstore.store.tables import Column
from featstore.store.writer import SUPERSEDED, open_for_writing, sweep
from featstore.text import counted, quoted


@dataclass
class Imported:
    """Result of an import.

    ``change``: numbers of rows that changed in the plan. ``written``: number of vectors written. ``held``: owners of
    the units that other processes are writing.
    """

    change: Change
    written: int = 0
    held: list[str] = field(default_factory=list)


def check_vectors(vectors: Vectors, rows: ImportedRows, on_rows: Callable[[int], None]) -> None:
    """Read all vectors once before anything is written, and set ``rows.hashes`` to a hash of each vector.

    Raises UsageError for duplicate keys, NaN or infinity.
    """
    n = vectors.shape[0]
    doubled = KeyIndex.build(digests(rows.keys)).doubled()
    if doubled is not None:
        one, other = sorted(doubled[:2])
        raise UsageError(
            f"{rows.location}: the key {quoted(rows.keys[one])} is there more than once (rows {one + 1:,} and {other + 1:,}); "
            "each vector needs a key of its own"
        )
    hashes, at = np.empty(n, np.int64), 0
    for block in vectors.blocks():
        hashes[at : at + len(block)] = _hashes(block)
        at += len(block)
        on_rows(at)
    if at != n:
        raise FeatstoreError(f"{rows.location}: has {at:,} vectors where it announces {n:,}; it is damaged")
    rows.hashes = hashes


def write_rows(
    store: Path,
    identity: Identity,
    weights_name: str,
    vectors: Vectors,
    rows: ImportedRows,
    *,
    unit_rows: int | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Imported:
    """Change the store's rows of this source to ``rows``, which check_vectors has checked.

    Unchanged rows are kept, changed rows replaced, vanished rows removed. An import that was killed continues at the
    first unit that is not written. Raises IdentityError if the store has other features, UsageError if a key belongs to
    another source, FeatstoreError if the vectors changed since they were checked; OSError if writing fails.
    """
    open_for_writing(store, identity, weights_name, unit_rows)
    typed = {name: Column.of_text(rows.metadata[name]).objects().tolist() for name in rows.from_text}
    rows.metadata.update(typed)
    with Claims(store) as claims:
        claims.join()
        sweep(store, claims)
        manifest = Manifest.read(store)
        manifest.identity.check(identity, str(store))
        done = Imported(Planner(store, manifest.epoch, manifest.unit_rows).update(rows))
        plan, ours = Plan(store, manifest.epoch), source_name(rows.describe())
        writer = _Writer(store, manifest, plan, vectors, rows)
        for unit in plan.units():
            if source_name(plan.segments[unit.segment].source) != ours or shards.has_shard(store, unit.number):
                continue
            claim = claims.take(unit.number)
            if isinstance(claim, Owner):
                done.held.append(str(claim))
                continue
            if not shards.has_shard(store, unit.number):
                done.written += writer.write(unit)
                on_rows(done.written)
            claims.finish(unit.number)
    return done


class _Writer:
    def __init__(self, store: Path, manifest: Manifest, plan: Plan, vectors: Vectors, rows: ImportedRows) -> None:
        self._store, self._manifest, self._plan = store, manifest, plan
        self._rows, self._cursor = rows, _Cursor(vectors)
        self._index = KeyIndex.build(digests(rows.keys))
        self._denied = Denylist.of(plan).content_test()
        self._provenance = {
            "engine": "import",
            "files": [os.path.basename(file.path) for file in vectors.files],
            "host": socket.gethostname(),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def write(self, unit: Unit) -> int:
        """Write the shard of ``unit``; return the number of its vectors."""
        planned = self._plan.rows(unit)
        places = self._index.find(digests(planned.keys))
        # If the file changed after a killed import, the file may lack a planned row or have another vector for it.
        known = (places >= 0) & ~self._plan.is_retired(planned.ids)
        known[known] = self._rows.hashes[places[known]] == planned.mtimes[known]
        removed = known.copy()
        removed[known] = [self._denied(content.tobytes()) for content in self._rows.content[places[known]]]
        kept, lost = np.flatnonzero(known & ~removed), np.flatnonzero(~known | removed)
        failures = [
            Failure(int(planned.ids[row]), DENIED_PICTURE, DENIED_MESSAGE)
            if removed[row]
            else Failure(int(planned.ids[row]), SUPERSEDED, "its vector was replaced before it was imported")
            for row in lost.tolist()
        ]
        finished = Finished(
            unit.number,
            planned.ids[kept],
            planned.views[kept],
            [planned.keys[row] for row in kept.tolist()],
            self._rows.content[places[kept]],
            failures,
            [planned.keys[row] for row in lost.tolist()],
            np.zeros((len(lost), 32), np.uint8),
        )
        blocks = self._checked(self._cursor.take(places[kept]), planned.mtimes[kept])
        made = [{**self._provenance, "rows": [0, len(unit)]}]
        path = shards.shard_path(self._store, unit.number)
        shards.write_shard(path, self._manifest.identity, self._manifest.store_id, finished, blocks, made)
        return len(kept)

    def _checked(self, blocks: Iterator[NDArray[Any]], hashes: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        at = 0
        for block in blocks:
            if (_hashes(block) != hashes[at : at + len(block)]).any():
                raise FeatstoreError(f"{self._rows.location}: changed while it was read; run the same command again")
            at += len(block)
            yield block


class _Cursor:
    """Reads single rows from a stream of vectors. To go back to an earlier row, the reader starts the stream again."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        self._blocks = vectors.blocks()
        self._block, self._start = np.empty((0, vectors.shape[1]), vectors.dtype), 0

    def take(self, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield the vectors of ``rows``, block by block."""
        order: Sequence[int] | NDArray[np.int64] = rows
        if len(rows) and (np.diff(rows) < 0).any():
            # The order of the vectors in the file changed since these rows were planned: read each ascending run
            # separately.
            for run in np.split(rows, np.flatnonzero(np.diff(rows) < 0) + 1):
                yield from self.take(run)
            return
        at = 0
        while at < len(order):
            if order[at] < self._start:
                self._blocks, self._start = self._vectors.blocks(), 0
                self._block = self._block[:0]
            stop = self._start + len(self._block)
            count = int(np.searchsorted(rows[at:], stop))
            if count:
                yield self._block[rows[at : at + count] - self._start]
                at += count
            if at < len(order):
                self._start, self._block = stop, next(self._blocks)


def _hashes(vectors: NDArray[Any]) -> NDArray[np.int64]:
    """Return a non-negative int64 hash of each vector, (n,)."""
    return (shards.row_checksums(vectors) >> np.uint64(1)).astype(np.int64)


def held_note(held: Sequence[str]) -> str:
    """Return the message that other processes are writing some units; ``held``: the owners of these units."""
    return f"{counted(len(held), 'unit is', 'units are')} being written by another process ({held[0]}); run the same command again when it is done"
