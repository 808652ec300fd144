"""Find duplicate pictures in a store, and copies in different splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.store import FeatureStore
from featstore.store.origin import state_of_store
from featstore.store.region_views import numbered
from featstore.store.splitting import equal_content
from featstore.text import counted, natural

if TYPE_CHECKING:
    from featstore.indexes.duplicates import Leak, NearDuplicates

_AT_ONCE = 4096
"""Number of pairs of vectors to read at once."""
_NAMED = 10


@dataclass(frozen=True)
class Copy:
    """A picture in a group of copies. ``sha256``: SHA-256 of the file's bytes, hexadecimal.

    ``equal_bytes``: identical files of a group share this number, which counts from 1; None if no other picture has the
    same bytes. ``cosine``: cosine between the features of this picture and of its closest copy, as in a search.
    ``centred_cosine``: cosine between these features after the store's mean vector is subtracted from both; the
    threshold applies to this value.
    """

    key: str
    id: int
    label: str | None
    split: str | None
    sha256: str
    equal_bytes: int | None
    centred_cosine: float
    cosine: float


@dataclass(frozen=True)
class Group:
    """Pictures that are copies of each other, in store order. ``equal``: whether all have the same bytes."""

    copies: list[Copy]
    equal: bool

    @property
    def equal_sets(self) -> int:
        """Number of sets of identical files in the group."""
        return max((copy.equal_bytes or 0 for copy in self.copies), default=0)

    @property
    def equal_copies(self) -> int:
        """Number of pictures in the group that have the same bytes as another picture."""
        return sum(copy.equal_bytes is not None for copy in self.copies)

    @property
    def kind(self) -> str:
        """Text that says how the pictures of the group are related: equal bytes or near-duplicates."""
        if self.equal:
            return "equal bytes"
        equal = f", {self.equal_copies:,} of {len(self.copies):,} with equal bytes" if self.equal_copies else ""
        return f"near-duplicates{equal}"

    @property
    def labels(self) -> set[str]:
        """Labels of the pictures in the group; more than one label is a contradiction."""
        return {copy.label for copy in self.copies if copy.label is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the group of duplicates as JSON types."""
        return {"equal": self.equal, "copies": [dict(copy.__dict__) for copy in self.copies]}


@dataclass(frozen=True)
class SharedPicture:
    """A picture of one split and its closest copy in another split. ``equal``: whether both have the same bytes.

    ``cosine`` and ``centred_cosine``: cosines between the features of the two pictures, see Copy.
    """

    one: Copy
    other: Copy
    centred_cosine: float
    cosine: float
    equal: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the two pictures and their cosines as JSON types."""
        return {
            "equal": self.equal,
            "centred_cosine": self.centred_cosine,
            "cosine": self.cosine,
            "copies": [dict(self.one.__dict__), dict(self.other.__dict__)],
        }


@dataclass(frozen=True)
class DuplicateReport:
    """Result of find_duplicates.

    ``groups``: groups of copies; a picture is in at most one group. Groups in which all bytes are equal come first, and
    larger groups before smaller groups. ``leaks``: pairs of copies in different splits, first the pairs with equal
    bytes, then by falling cosine. ``leaking``: for each split, the number of its pictures that have a copy in another
    split. ``threshold``: two pictures whose centred cosine is at least this value are near-duplicates.
    """

    store: FeatureStore
    threshold: float
    groups: list[Group]
    leaks: list[SharedPicture]
    leaking: dict[str, int]
    notes: list[str]

    @property
    def surplus(self) -> int:
        """Number of surplus copies: all pictures of each group except its first."""
        return sum(len(group.copies) - 1 for group in self.groups)

    @property
    def equal_sets(self) -> int:
        """Number of sets of identical files; a set is a whole group, or a part of a group of near-duplicates."""
        return sum(group.equal_sets for group in self.groups)

    @property
    def equal_copies(self) -> int:
        """Number of pictures that have the same bytes as another picture."""
        return sum(group.equal_copies for group in self.groups)

    @property
    def near_groups(self) -> int:
        """Number of groups in which not all pictures have the same bytes."""
        return sum(not group.equal for group in self.groups)

    def __repr__(self) -> str:
        return (
            f"<DuplicateReport {str(self.store.path)!r}: {counted(self.equal_sets, 'group')} of equal bytes, "
            f"{counted(self.near_groups, 'group')} of near-duplicates, {counted(len(self.leaks), 'pair')} between splits>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report on duplicates as JSON types."""
        return {
            "store": str(self.store.path),
            "images": len(self.store),
            "threshold": self.threshold,
            "surplus": self.surplus,
            "equal_sets": self.equal_sets,
            "equal_copies": self.equal_copies,
            "near_groups": self.near_groups,
            "groups": [group.to_dict() for group in self.groups],
            "leaks": [pair.to_dict() for pair in self.leaks],
            "leaking": self.leaking,
            "notes": self.notes,
        }


def find_duplicates(
    store: str | os.PathLike[str],
    *,
    threshold: float = defaults.DUPLICATE_COSINE,
    within: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DuplicateReport:
    """Find pictures with equal bytes (SHA-256), near-duplicates, and copies in different splits of ``store``.

    Near-duplicates are pictures whose mean-centred features have a cosine of at least ``threshold``;
    defaults.DUPLICATE_COSINE documents which kinds of copies the default finds. If a is a copy of b, and b is a copy of
    c, all three are in one group. Pictures with equal bytes are always in one group. ``within``: also compare regions
    of the same picture with each other. Vectors are compared block by block (featstore.indexes.near_duplicates); memory
    grows only by a few numbers per picture and by the groups found. ``progress(done, total)`` counts pictures. Raises
    UsageError if there is no store or the threshold is invalid, DamagedError if the store is damaged.
    """
    from featstore.indexes import equal_groups, near_duplicates

    opened = FeatureStore.open(Path(store))
    content = equal_content(opened)
    splits = opened.splits.tolist()
    parents = numbered(opened.parents)[1] if opened.has_regions and not within else None
    near = near_duplicates(opened.stream(), threshold, splits=splits, parents=parents, progress=progress)
    equal = equal_groups(content.tolist())
    if parents is not None:
        equal = [rows for rows in equal if len(set(parents[rows].tolist())) > 1]
    found = _joined([*near.groups, *equal])
    found.sort(key=lambda rows: (len(set(content[rows].tolist())) > 1, -len(rows)))
    pairs = _leaks(near.leaks, equal, splits)
    copies = _Copies(opened, equal, near)
    copies.read({row for rows in found for row in rows.tolist()} | {row for pair in pairs for row in pair[:2]})
    groups = [Group(copies.of(rows.tolist()), len(set(content[rows].tolist())) == 1) for rows in found]
    cosines = _cosines(opened, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    shared = []
    for (row, partner, centred, same), cosine in zip(pairs, cosines, strict=True):
        one, other = copies.of([row, partner])
        shared.append(SharedPicture(one, other, centred, 1.0 if same else cosine, same))
    notes = state_of_store(opened)
    if differing := [number for number, group in enumerate(groups, 1) if len(group.labels) > 1]:
        named = ", ".join(map(str, differing[:_NAMED])) + (", ..." if len(differing) > _NAMED else "")
        notes.append(
            f"copies of one picture have different labels in {counted(len(differing), 'group')}: group {named}"
        )
    return DuplicateReport(opened, threshold, groups, shared, _counted(shared), notes)


_Pair = tuple[int, int, float, bool]


def _leaks(near: Sequence[Leak], equal: Sequence[NDArray[np.int64]], splits: Sequence[str | None]) -> list[_Pair]:
    """Return each pair of copies in different splits once, as (row, other row, cosine, equal bytes).

    Pairs with equal bytes come first, then the pairs by falling cosine.
    """
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


def _joined(groups: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Merge ``groups`` that have a row in common; return groups of ascending rows, sorted by their first rows."""
    joined: list[list[int]] = []
    place: dict[int, int] = {}
    for rows in groups:
        first, *others = sorted({place[row] for row in rows.tolist() if row in place}) or [len(joined)]
        if first == len(joined):
            joined.append([])
        new = [row for row in rows.tolist() if row not in place]
        for other in others:
            new += joined[other]
            joined[other] = []
        joined[first] += new
        place.update(dict.fromkeys(new, first))
    return [np.array(sorted(rows), np.int64) for rows in sorted(map(sorted, joined)) if rows]


class _Copies:
    """Makes Copy objects, which describe the pictures in groups and pairs of duplicates."""

    def __init__(self, store: FeatureStore, equal: Sequence[NDArray[np.int64]], near: NearDuplicates) -> None:
        self._store, self._near = store, near
        self._twin = {row: rows.tolist() for rows in equal for row in rows.tolist()}
        self._known: dict[int, Copy] = {}

    def read(self, wanted: set[int]) -> None:
        """Read key, labels and cosines of the ``wanted`` rows; the method ``of`` returns them as Copy objects."""
        rows = sorted(wanted)
        store, score = self._store, self._near.score
        labels, splits, ids, digests = store.labels, store.splits, store.ids, store.sha256
        keys = (key.decode("utf-8", "surrogateescape") for key in store._key_bytes(np.array(rows, np.int64)))
        nearest = [max(int(self._near.nearest[row]), 0) for row in rows]
        for row, key, cosine in zip(rows, keys, _cosines(store, rows, nearest), strict=True):
            # Identical files have the cosine 1; computed cosines would be inexact, or 0 for zero vectors.
            centred, cosine = (1.0, 1.0) if row in self._twin else (float(score[row]), cosine)
            digest = digests[row].tobytes().hex()
            self._known[row] = Copy(key, int(ids[row]), labels[row], splits[row], digest, None, centred, cosine)

    def of(self, rows: Sequence[int]) -> list[Copy]:
        """Return the pictures at ``rows``; sets of identical files among these rows are numbered from 1."""
        numbers: dict[int, int] = {}
        for row in rows:
            if row in self._twin:
                numbers.setdefault(self._twin[row][0], len(numbers) + 1)
        return [
            replace(self._known[row], equal_bytes=numbers[self._twin[row][0]] if row in self._twin else None)
            for row in rows
        ]


def _cosines(store: FeatureStore, rows: Sequence[int], others: Sequence[int]) -> list[float]:
    """Return the cosine of each of ``rows`` with the row at the same position in ``others``; 0 for a zero vector."""
    found: list[float] = []
    for start in range(0, len(rows), _AT_ONCE):
        one, other = (
            store.features(rows=np.array(some[start : start + _AT_ONCE], np.int64)).astype(np.float64)
            for some in (rows, others)
        )
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        products = np.einsum("nd,nd->n", one, other)
        found += np.divide(products, lengths, out=np.zeros(len(one)), where=lengths > 0).tolist()
    return found
