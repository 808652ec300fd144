"""Write a store: open it for an identity, and finish claimed units one at a time."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import FeatstoreError, UsageError
from featstore.files import atomic
from featstore.store import folders, shards
from featstore.store import manifest as manifests
from featstore.store.claims import Claim, Claims
from featstore.store.culprits import read_culprits
from featstore.store.denylist import Denylist
from featstore.store.identity import Identity
from featstore.store.journal import Block, JournalWriter, contiguous, provenance_of, read_journal
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan, Unit
from featstore.store.shards import Failure, Finished

SUPERSEDED = "superseded"
"""Failure reason of a row that was retired before its extraction: its picture is not read."""


def unit_rows_for(identity: Identity) -> int:
    """Return the number of rows of a full unit: a power of two; its vectors take at most defaults.UNIT_BYTES."""
    rows = defaults.UNIT_BYTES // (identity.dimension * identity.numpy_dtype.itemsize)
    return 1 << max(0, rows.bit_length() - 1)


def open_for_writing(store: Path, identity: Identity, weights_name: str, unit_rows: int | None = None) -> Manifest:
    """Create the store, or open the existing one, for features of ``identity``.

    A store without rows accepts any identity. Raises IdentityError if the store has features of another identity,
    UsageError if the folder is not a store.
    """
    store = Path(store)
    if not (store / manifests.NAME).exists():
        if store.exists() and (not store.is_dir() or any(not name.name.startswith(".") for name in store.iterdir())):
            raise UsageError(f"{store}: exists and is no feature store; name a new folder, or an empty one")
        atomic.make_directory(store)
        # If another process creates the store at the same time, its manifest is kept and read below.
        with contextlib.suppress(FileExistsError):
            Manifest.new(identity, weights_name, unit_rows or unit_rows_for(identity)).write(store, exclusive=True)
    found = Manifest.read(store)
    if (found.identity != identity or unit_rows not in (None, found.unit_rows)) and not has_rows(store):
        found = _reset_identity(store, Manifest.new(identity, weights_name, unit_rows or unit_rows_for(identity)))
    found.identity.check(identity, str(store))
    if unit_rows is not None and unit_rows != found.unit_rows:
        raise UsageError(
            f"{store}: its units have {found.unit_rows:,} rows; that was settled when it was made and cannot be {unit_rows:,} now"
        )
    return found


def _reset_identity(store: Path, new: Manifest) -> Manifest:
    """Replace the identity of a store without rows, which a failed run has left, by that of ``new``."""
    with Claims(store) as claims:
        try:
            claims.exclusive()
        except FeatstoreError:
            return Manifest.read(store)
        # Check again that the store has no rows: a process that adds rows first announces itself and then reads the
        # manifest.
        if not has_rows(store):
            new.write(store)
        return Manifest.read(store)


def has_rows(store: Path) -> bool:
    """Return whether a picture was ever planned or extracted in ``store``. If not, the store accepts any identity.

    Raises DamagedError if a part of the store is not a real folder.
    """
    for parent, pattern in ((folders.PLAN, folders.EPOCH), (folders.SHARDS, folders.SHARD)):
        names = _listed(store, parent, pattern=pattern)
        if parent == folders.SHARDS and names:
            return True
        if any(_listed(store, parent, name, pattern=folders.NUMBERED) for name in names):
            return True
    return bool(_listed(store, folders.WRITTEN, pattern=folders.MARK))


def sweep(store: Path, claims: Claims) -> None:
    """Remove unneeded leftovers of killed processes; each leftover may be as large as a unit.

    Leftovers are the work folders of units that have a shard, and temporary shard files whose writer is dead.
    """
    for name in _listed(store, folders.WORK, pattern=folders.WORK_FOLDER):
        if name.isdigit() and shards.has_shard(store, int(name)) and claims.holder(name) is None:
            with contextlib.suppress(OSError):
                folders.remove_folder(store, folders.WORK, name)
    # List the files before looking for their owners: a file begun after the listing must not be removed.
    for leftover in _listed(store, folders.SHARDS, pattern=folders.TEMPORARY_SHARD):
        unit = shards.unit_of(leftover)
        if unit is not None and claims.holder(unit) is None:
            folders.remove_file(store, folders.SHARDS, leftover)


def _listed(store: Path, *parts: str, pattern: re.Pattern[str]) -> list[str]:
    try:
        return folders.names(store, *parts, pattern=pattern)
    except FileNotFoundError:
        return []


class UnitWriter:
    """Write one unit under a claim: blocks to the journal, then the shard.

    Attributes: ``unit``; ``rows`` (of the plan); ``next_row`` (first row that is in no journal yet); ``superseded``
    (bool per row: the row was retired since it was planned, so its picture is not read); ``culprits`` (reason and
    message by row: the picture crashed a decoder before, and is not decoded again); ``denied`` (function that tells by
    SHA-256 whether a picture was removed from the store).
    """

    def __init__(
        self, store: Path, manifest: Manifest, plan: Plan, unit: Unit, claim: Claim, provenance: dict[str, Any]
    ) -> None:
        self.store, self.manifest, self.unit, self.claim = store, manifest, unit, claim
        self.rows = plan.rows(unit)
        self.superseded = plan.is_retired(self.rows.ids)
        self.culprits = read_culprits(claim.directory)
        self.denied = Denylist.of(plan).content_test()
        identity = manifest.identity
        earlier = [
            block for path in claim.journals() for block in read_journal(path, identity.dimension, identity.numpy_dtype)
        ]
        self._earlier = contiguous(earlier)
        self.next_row = self._earlier[-1].stop if self._earlier else 0
        self._journal = JournalWriter(claim.journal)
        self._journal.append(
            Block(
                self.next_row,
                self.next_row,
                np.empty((0, identity.dimension)),
                np.empty((0, 32), np.uint8),
                (),
                provenance,
            )
        )

    def append(self, block: Block) -> None:
        """Append a block of finished rows to the journal; blocks must be in order, without gaps."""
        self._journal.append(
            Block(
                block.start,
                block.stop,
                block.vectors.astype(self.manifest.identity.numpy_dtype, copy=False),
                block.sha256,
                block.failures,
            )
        )
        self.next_row = block.stop

    def close(self) -> None:
        """Sync and close the journal; an owner of the unit can continue from the journal later."""
        self._journal.close()

    def commit(self) -> None:
        """Write the shard from the journals. On return the unit is finished, by this process or by another owner."""
        self.close()
        identity = self.manifest.identity
        ours = read_journal(self.claim.journal, identity.dimension, identity.numpy_dtype)
        # Use the journals as read at the start: another owner, believed dead, may have appended overlapping blocks
        # since.
        chain = self._earlier + ours
        reached = chain[-1].stop if chain else 0
        if reached != len(self.unit):
            raise RuntimeError(f"unit {self.unit.number}: committed at row {reached} of {len(self.unit)}")
        # If another owner wrote the shard first, keep that shard: it has the same pictures.
        with contextlib.suppress(FileExistsError):
            shards.write_shard(
                shards.shard_path(self.store, self.unit.number),
                identity,
                self.manifest.store_id,
                self._finished(chain),
                (block.vectors for block in chain),
                provenance_of(chain),
            )

    def _finished(self, chain: list[Block]) -> Finished:
        ok = np.concatenate([block.ok() for block in chain])
        failed = [failure for block in chain for failure in sorted(block.failures)]
        where = np.array([row for row, _, _ in failed], np.int64)
        sums = np.empty((len(self.unit), 32), np.uint8)
        for block in chain:
            sums[block.start : block.stop] = block.sha256
        return Finished(
            self.unit.number,
            self.rows.ids[ok],
            self.rows.views[ok],
            _take(self.rows.keys, ok),
            sums[ok],
            [Failure(int(self.rows.ids[row]), reason, message) for row, reason, message in failed],
            _take(self.rows.keys, where),
            sums[where],
        )


def _take(keys: Any, rows: NDArray[np.int64]) -> list[bytes]:
    return [keys[row] for row in rows.tolist()]
