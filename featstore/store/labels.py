"""Add labels, splits and metadata from a table as a new version of the side tables, without rewriting shards."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from featstore.errors import FeatstoreError, UsageError
from featstore.store import tables
from featstore.store.as_source import require_own_tables
from featstore.store.claims import Claims
from featstore.store.cuts import regions_of
from featstore.store.key_matches import KeyMatches
from featstore.store.keys import KeyIndex, digests
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.rows import renamed
from featstore.store.tables import Column, Tables, Value
from featstore.text import counted, quoted


class NoKeyKnown(UsageError):
    """Raised if no key of the table is in the store."""


@dataclass(frozen=True)
class LabelReport:
    """Result of labelling.

    ``version``: number of the new label version. ``rows``: number of rows in the table. ``matched``: keys found in the
    store. ``unknown``: keys not found, the first few in ``examples``. ``read_as``: what was read from the table, in one
    line. ``notes``: warnings for the user.
    """

    version: int
    rows: int
    matched: int
    unknown: int
    examples: list[str]
    columns: list[str]
    read_as: str = ""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """Return the result of the labelling as JSON types."""
        return asdict(self)


def set_columns(
    store: str | os.PathLike[str],
    keys: Iterable[bytes],
    columns: Mapping[str, Sequence[Value]],
    *,
    from_text: bool = False,
) -> LabelReport:
    """Set the values of ``columns`` ("label", "split", or any metadata) for the pictures of ``keys``.

    The new values override older ones. ``from_text``: read numbers from text in metadata columns. A key also matches in
    another Unicode form, with slashes instead of backslashes, or relative to the root of one of the store's sources.
    Keys that are still unknown are counted and not stored. Raises UsageError for a duplicate key, NoKeyKnown if no key
    is in the store.
    """
    path, wanted = Path(store), list(keys)
    Manifest.read(path)
    digest = digests(wanted)
    doubled = KeyIndex.build(digest).doubled()
    if doubled is not None:
        raise UsageError(
            f"the key {quoted(wanted[doubled[0]])} is in the table more than once; keep one line for each key"
        )
    with Claims(path) as claims:
        claims.join()
        # Read the epoch after join(): from then on no compaction can start.
        epoch = Manifest.read(path).epoch
        plan = Plan(path, epoch)
        known = plan.find(digest) >= 0
        matches = KeyMatches(plan, [wanted[at] for at in np.flatnonzero(~known).tolist()])
        for at, match in zip(np.flatnonzero(~known).tolist(), matches.keys, strict=True):
            if match is not None:
                wanted[at], known[at] = match, True
        rows, unknown = np.flatnonzero(known), np.flatnonzero(~known)
        matches.causes += _pictures_of_regions(plan, {wanted[at] for at in unknown.tolist()})
        twice = KeyIndex.build(digests([wanted[at] for at in rows.tolist()])).doubled() if matches.notes else None
        if twice is not None:
            key = quoted(wanted[int(rows[twice[0]])])
            raise UsageError(f"the key {key} is in the table in two forms; keep one line for each key")
        if not rows.size:
            why = "".join(f"; {note}" for note in matches.causes)
            if len(wanted) > 1:
                none = f"none of the {len(wanted):,} keys of the table is in the store (the first: {quoted(wanted[0])})"
            else:
                none = (
                    f"the only key of the table, {quoted(wanted[0])}, is not in the store"
                    if wanted
                    else "the table has no rows"
                )
            raise NoKeyKnown(f"{path}: {none}{why}")
        typed = {
            name: (Column.of_text if from_text and name not in (tables.LABEL, tables.SPLIT) else Column.of)(
                values
            ).take(rows)
            for name, values in columns.items()
        }
        require_own_tables(path, Tables(path, epoch))
        while True:
            version = Tables(path, epoch).version
            try:
                tables.write_table(
                    tables.table_path(path, epoch, version),
                    [wanted[i] for i in rows.tolist()],
                    typed,
                    "user",
                    about={"generation": Plan(path, epoch).generation},
                )
                break
            except FileExistsError:
                continue
        if Manifest.read(path).epoch != epoch:
            raise FeatstoreError(f"{path}: was compacted while it was labelled; label it again")
    examples = [quoted(wanted[i]) for i in unknown[:5].tolist()]
    notes = matches.notes + matches.causes + (renamed(columns) if plan.has_regions else [])
    return LabelReport(version + 1, len(wanted), len(rows), len(unknown), examples, list(columns), "", notes)


def _pictures_of_regions(plan: Plan, unknown: Collection[bytes]) -> list[str]:
    """Return a list with a note if some unknown keys are pictures of which the store has only regions, else an empty
    list.
    """
    cut = regions_of(plan, unknown) if plan.has_regions else {}
    if not cut:
        return []
    picture, ids = next(iter(cut.items()))
    return [
        f"{counted(len(cut), 'key is that of a picture', 'keys are those of pictures')} of which only regions are "
        f"in the store: name these, as {quoted(plan.key_of(np.array(ids[:1]))[0])} for one of {quoted(picture)}"
    ]


def known_keys(store: str | os.PathLike[str], keys: Iterable[bytes]) -> int:
    """Return how many of ``keys`` are in the store."""
    path = Path(store)
    return int((Plan(path, Manifest.read(path).epoch).find_keys(list(keys)) >= 0).sum())
