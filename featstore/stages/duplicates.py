"""The stage that finds, in a store, pictures that are there more than once, and those that two splits share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.names import natural
from featstore.store import FeatureStore
from featstore.store.origin import state_of_store
from featstore.store.splitting import groups_of_equal_bytes
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.indexes.duplicates import Leak


@dataclass(frozen=True)
class Copy:
    """A picture of a group. ``sha256`` of its bytes, in hexadecimal; ``score``: the cosine with its closest copy."""

    key: str
    id: int
    label: str | None
    split: str | None
    sha256: str
    score: float


@dataclass(frozen=True)
class Group:
    """Pictures that are copies of one another, in the order of the store. ``equal``: all have the same bytes."""

    copies: list[Copy]
    equal: bool

    @property
    def labels(self) -> set[str]:
        """The labels in it; more than one is a contradiction."""
        return {copy.label for copy in self.copies if copy.label is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the group as JSON."""
        return {"equal": self.equal, "copies": [dict(copy.__dict__) for copy in self.copies]}


@dataclass(frozen=True)
class SharedPicture:
    """A picture of one split and its closest copy in another. ``equal``: they have the same bytes."""

    one: Copy
    other: Copy
    score: float
    equal: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the pair as JSON."""
        return {
            "equal": self.equal,
            "score": self.score,
            "copies": [dict(self.one.__dict__), dict(self.other.__dict__)],
        }


@dataclass(frozen=True)
class DuplicateReport:
    """``groups``: each picture is in one at most; those of equal bytes come first, the larger before the smaller.

    ``leaks``: pairs between splits, equal bytes first, then the closest. ``leaking``: pictures by split that have a copy in another split. ``threshold``: the centred cosine from which two
    pictures are near-duplicates.
    """

    store: FeatureStore
    threshold: float
    groups: list[Group]
    leaks: list[SharedPicture]
    leaking: dict[str, int]
    notes: list[str]

    @property
    def surplus(self) -> int:
        """Pictures beyond the first of each group."""
        return sum(len(group.copies) - 1 for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "store": str(self.store.path),
            "images": len(self.store),
            "threshold": self.threshold,
            "surplus": self.surplus,
            "groups": [group.to_dict() for group in self.groups],
            "leaks": [pair.to_dict() for pair in self.leaks],
            "leaking": self.leaking,
            "notes": self.notes,
        }


def find_duplicates(
    store: str | os.PathLike[str],
    *,
    threshold: float = defaults.DUPLICATE_COSINE,
    progress: Callable[[int, int], None] | None = None,
) -> DuplicateReport:
    """Find pictures of equal bytes (SHA-256), near-duplicates, and what the splits of ``store`` share of both.

    Near-duplicates are pictures whose features, less their mean, have a cosine of ``threshold`` at least; chains of
    them are one group. Vectors are compared block by block (featstore.index.near_duplicates): memory does not grow
    with the store but for some numbers a picture and the groups found. ``progress(done, total)`` counts pictures.
    Raises UsageError (no store, a threshold that is no cosine), DamagedError.
    """
    from featstore.indexes import equal_groups, near_duplicates

    opened = FeatureStore.open(Path(store))
    content = groups_of_equal_bytes(opened.sha256)
    splits = opened.splits.tolist()
    near = near_duplicates(opened.stream(), threshold, splits=splits, progress=progress)
    mixed = [rows for rows in near.groups if len(set(content[rows].tolist())) > 1]
    among = set(np.concatenate([*mixed, np.zeros(0, np.int64)]).tolist())
    equal = equal_groups(content.tolist())
    alone = sorted((rows for rows in equal if rows[0] not in among), key=len, reverse=True)
    pairs = _leaks(near.leaks, equal, splits)
    score = near.score.copy()
    # Copies byte for byte are found even where the cosine says nothing, as when all pictures are one.
    score[np.concatenate([*equal, np.zeros(0, np.int64)])] = 1.0
    named = {row for rows in [*alone, *mixed] for row in rows.tolist()} | {row for pair in pairs for row in pair[:2]}
    copies = _copies(opened, np.array(sorted(named), np.int64), score)
    groups = [
        Group([copies[row] for row in rows.tolist()], rows_equal)
        for rows_equal, some in ((True, alone), (False, mixed))
        for rows in some
    ]
    shared = [SharedPicture(copies[one], copies[other], cosine, bool(same)) for one, other, cosine, same in pairs]
    notes = state_of_store(opened)
    if differing := sum(len(group.labels) > 1 for group in groups):
        notes.append(f"in {counted(differing, 'group')} copies of one picture have different labels")
    return DuplicateReport(opened, threshold, groups, shared, _counted(shared), notes)


_Pair = tuple[int, int, float, bool]


def _leaks(near: Sequence[Leak], equal: Sequence[NDArray[np.int64]], splits: Sequence[str | None]) -> list[_Pair]:
    """Return (row, other row, cosine, equal bytes) of the pairs between splits, each once, the closest first."""
    from featstore.indexes import across_splits

    pairs: dict[tuple[int, int], tuple[float, bool]] = {}
    settled: set[int] = set()
    for rows in across_splits(equal, splits):
        first: dict[str, int] = {}
        for row in rows.tolist():
            if (split := splits[row]) is not None:
                first.setdefault(split, row)
        for row in rows.tolist():
            other = next((there for split, there in first.items() if split != splits[row]), None)
            if splits[row] is not None and other is not None:
                pairs[min(row, other), max(row, other)] = 1.0, True
                settled.add(row)
    for leak in near:
        if leak.row not in settled:
            pairs.setdefault((min(leak.row, leak.other), max(leak.row, leak.other)), (leak.score, False))
    listed = [(*rows, *how) for rows, how in pairs.items()]
    return sorted(listed, key=lambda pair: (not pair[3], -pair[2], pair[:2]))


def _counted(shared: Sequence[SharedPicture]) -> dict[str, int]:
    pictures = {copy.id: str(copy.split) for pair in shared for copy in (pair.one, pair.other)}
    counts = Counter(pictures.values())
    return {name: counts[name] for name in sorted(counts, key=natural)}


def _copies(store: FeatureStore, rows: NDArray[np.int64], score: NDArray[np.float32]) -> dict[int, Copy]:
    labels, splits, ids, digests = store.labels, store.splits, store.ids, store.sha256
    keys = (key.decode("utf-8", "surrogateescape") for key in store.key_bytes(rows))
    return {
        row: Copy(key, int(ids[row]), labels[row], splits[row], digests[row].tobytes().hex(), float(score[row]))
        for row, key in zip(rows.tolist(), keys, strict=True)
    }
