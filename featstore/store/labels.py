"""Labels, splits and metadata from a table, as a new version of the side tables: no shard is touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from featstore.errors import FeatstoreError, UsageError
from featstore.store import tables
from featstore.store.claims import Claims
from featstore.store.keys import KeyIndex, digests
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.tables import Column, Tables, Value


@dataclass(frozen=True)
class LabelReport:
    """What labelling did: ``version`` of the tables from now on, ``rows`` of the table, ``matched`` to pictures,
    ``unknown`` keys (the first few in ``examples``)."""

    version: int
    rows: int
    matched: int
    unknown: int
    examples: list[str]
    columns: list[str]

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON."""
        return asdict(self)


def set_columns(
    store: str | os.PathLike[str],
    keys: Iterable[bytes],
    columns: Mapping[str, Sequence[Value]],
    *,
    from_text: bool = False,
) -> LabelReport:
    """Give the pictures of ``keys`` the values of ``columns`` ("label", "split", or any metadata), above what they have.

    ``from_text``: read numbers from text in metadata columns. Keys that the store does not have are counted, not
    kept. Raises UsageError for a doubled key, or where no key is in the store.
    """
    path, wanted = Path(store), list(keys)
    Manifest.read(path)
    digest = digests(wanted)
    doubled = KeyIndex.build(digest).doubled()
    if doubled is not None:
        raise UsageError(
            f"the key {_shown(wanted[doubled[0]])} is in the table more than once; keep one line for each key"
        )
    with Claims(path) as claims:
        claims.join()
        # Read when we have joined: from here on no compaction begins.
        epoch = Manifest.read(path).epoch
        known = Plan(path, epoch).find(digest) >= 0
        rows, unknown = np.flatnonzero(known), np.flatnonzero(~known)
        if not rows.size:
            example = f" (the first: {_shown(wanted[0])})" if wanted else ""
            raise UsageError(f"{path}: none of the {len(wanted):,} keys of the table is in the store{example}")
        typed = {
            name: (Column.of_text if from_text and name not in (tables.LABEL, tables.SPLIT) else Column.of)(
                values
            ).take(rows)
            for name, values in columns.items()
        }
        while True:
            version = Tables(path, epoch).version
            try:
                tables.write_table(
                    tables.table_path(path, epoch, version), [wanted[i] for i in rows.tolist()], typed, "user"
                )
                break
            except FileExistsError:
                continue
        if Manifest.read(path).epoch != epoch:
            raise FeatstoreError(f"{path}: was compacted while it was labelled; label it again")
    examples = [_shown(wanted[i]) for i in unknown[:5].tolist()]
    return LabelReport(version + 1, len(wanted), len(rows), len(unknown), examples, list(columns))


def _shown(key: bytes) -> str:
    return repr(key.decode("utf-8", "backslashreplace"))
