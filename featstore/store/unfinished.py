"""Read the rows of unfinished units from their journals, without writing anything.

This is safe while another process writes the unit. A journal only grows, and reading stops at an incomplete record. The
rows are copied, because the work folder is removed once the unit's shard is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from featstore.errors import DamagedError
from featstore.files.byte_columns import ByteColumn
from featstore.store import folders
from featstore.store.claims import work_folder
from featstore.store.identity import Identity
from featstore.store.journal import Block, contiguous, provenance_of, read_journal
from featstore.store.plan import Plan, Unit
from featstore.store.shards import Failure, Unfinished


def read_unfinished(store: Path, plan: Plan, unit: Unit, identity: Identity) -> Unfinished | None:
    """Return the rows in a unit's journals; None if there are none.

    Raises DamagedError for a journal of another format or of other features.
    """
    chain = _chain(store, unit, identity)
    if not chain:
        return None
    rows = plan.segments[unit.segment].rows(unit.start, unit.start + chain[-1].stop)
    ok = np.concatenate([block.ok() for block in chain])
    sums = np.concatenate([block.sha256 for block in chain])
    failed = sorted(failure for block in chain for failure in block.failures)
    return Unfinished(
        rows.ids[ok],
        ByteColumn.of(rows.keys[row] for row in ok.tolist()),
        sums[ok],
        np.concatenate([block.vectors for block in chain]),
        [(rows.keys[row], Failure(int(rows.ids[row]), reason, message)) for row, reason, message in failed],
        sums[[row for row, _, _ in failed]],
        provenance_of(chain),
    )


def count_unfinished(store: Path, plan: Plan, units: Iterable[Unit], identity: Identity) -> int:
    """Return the number of live pictures in the journals of ``units``; damaged journals count as empty."""
    count = 0
    for unit in units:
        with contextlib.suppress(DamagedError):
            if chain := _chain(store, unit, identity):
                ids = plan.segments[unit.segment].ids[unit.start : unit.start + chain[-1].stop]
                count += int((~plan.is_retired(ids)).sum())
    return count


def _chain(store: Path, unit: Unit, identity: Identity) -> list[Block]:
    blocks: list[Block] = []
    folder = work_folder(store, unit.number)
    # List the journals anew at each call: the folder may be removed, and journals added, at any time.
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(folders.regular(store, folders.WORK, folder.name, pattern=folders.JOURNAL), key=_by_number):
            with contextlib.suppress(FileNotFoundError):
                blocks += read_journal(folder / name, identity.dimension, identity.numpy_dtype)
    return contiguous(blocks)


def _by_number(name: str) -> tuple[int, str]:
    return len(name), name
