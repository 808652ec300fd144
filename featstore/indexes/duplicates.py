"""Duplicates: equal content by digest, near-duplicates by cosine of the features, and leaks between splits.

Pictures are compared block by block: two blocks and a few numbers per row are in memory, never n x n numbers. The exact
comparison of n rows costs n^2 d multiplications. For more than about 200,000 rows, pass an index: then each row is
compared only with the neighbours that the index finds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.blocks import Features, RowBlocks
from featstore.errors import UsageError
from featstore.indexes.blocks import Floats, prepare, prepared_blocks, shape_of
from featstore.indexes.feature_index import FeatureIndex

_OUTER_ROWS = 16384
_INNER_ROWS = 4096
_EDGES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Leak:
    """A leak: the row ``row`` has a near-duplicate, the row ``other``, in another split. ``score``: their cosine."""

    row: int
    other: int
    score: float


@dataclass(frozen=True)
class NearDuplicates:
    """Result of near_duplicates.

    ``groups``: row numbers of each group of near-duplicates, ascending; largest group first. ``nearest`` int64 (n,):
    the most similar other row of each row, -1 if no row reaches the threshold. ``score`` float32 (n,): cosine of a row
    and its nearest row (centred by default), -inf if there is no nearest row. ``threshold``: smallest cosine of
    near-duplicates. ``leaks``: if splits were given, each row that has near-duplicates in another split, with the most
    similar of these near-duplicates, best first. A pair of rows can appear twice, once for each row.
    """

    groups: list[NDArray[np.int64]]
    nearest: NDArray[np.int64]
    score: Floats
    threshold: float
    leaks: list[Leak]


def equal_groups(digests: Sequence[Hashable]) -> list[NDArray[np.int64]]:
    """Return groups of two or more rows with equal ``digests`` (n), sorted by row number, also inside a group.

    A digest that is None or empty is unknown, and equals no other digest.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, digest in enumerate(digests):
        if digest is not None and digest not in (b"", ""):
            rows.setdefault(digest, []).append(row)
    return [np.array(group, np.int64) for group in rows.values() if len(group) > 1]


def across_splits(groups: Sequence[NDArray[np.int64]], splits: Sequence[Hashable]) -> list[NDArray[np.int64]]:
    """Return the ``groups`` with rows in more than one of the ``splits`` (n); rows of split None are ignored."""
    return [group for group in groups if len({splits[row] for row in group} - {None}) > 1]


class Centred:
    """Block source of ``vectors`` minus their mean row, because a common part of all vectors would raise every cosine."""

    def __init__(self, vectors: Features) -> None:
        self._vectors = vectors
        self.shape = shape_of(vectors)
        total = np.zeros(self.shape[1])
        for _, block in prepared_blocks(vectors, "ip"):
            total += block.sum(axis=0, dtype=np.float64)
        self._mean = (total / max(1, self.shape[0])).astype(np.float32)

    def blocks(self) -> Iterator[Floats]:
        """Yield the rows minus their mean row, in blocks."""
        for _, block in prepared_blocks(self._vectors, "ip"):
            yield block - self._mean


def near_duplicates(
    vectors: Features,
    threshold: float = defaults.DUPLICATE_COSINE,
    *,
    splits: Sequence[Hashable] | None = None,
    parents: NDArray[np.int64] | None = None,
    centre: bool = True,
    index: FeatureIndex | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NearDuplicates:
    """Link the rows of ``vectors`` (n, d) whose cosine is at least ``threshold``, and return the groups.

    ``splits`` (n): also find leaks between these splits; rows of split None are ignored. ``parents`` (n,): rows with
    equal numbers, such as regions of one picture, are not linked. ``centre``: subtract the mean row before computing
    the cosine, because with some backbones (especially untrained ones) the features of all pictures are nearly
    parallel. ``index``: compare each row only with the ten neighbours that this index finds. Row i of ``vectors`` must
    be the row with the i-th smallest of ``index.ids``; cosines are not centred, and pairs that the index does not find
    are not linked. Links are transitive: a chain of near-duplicates is one group. ``progress(done, total)`` counts
    rows. Raises UsageError for NaN or an invalid threshold.
    """
    rows, _ = shape_of(vectors)
    _check_threshold(threshold)
    if splits is not None and len(splits) != rows:
        raise UsageError(f"{len(splits):,} splits were given for {rows:,} rows")
    names: dict[Hashable, int] = {}
    codes = np.array([-1 if one is None else names.setdefault(one, len(names)) for one in splits or ()], np.int64)
    best, elsewhere, links = _Nearest(rows), _Nearest(rows), _Links(rows)
    if index is not None:
        pairs = _pairs_by_index(vectors, threshold, index)
    else:
        pairs = _pairs(Centred(vectors) if centre else vectors, threshold, progress)
    for left, right, score in pairs:
        if parents is not None:
            other = parents[left] != parents[right]
            left, right, score = left[other], right[other], score[other]
        best.offer(left, right, score)
        best.offer(right, left, score)
        links.join(left, right)
        if len(names) > 1:
            apart = (codes[left] != codes[right]) & (codes[left] >= 0) & (codes[right] >= 0)
            elsewhere.offer(left[apart], right[apart], score[apart])
            elsewhere.offer(right[apart], left[apart], score[apart])
    found = np.flatnonzero(elsewhere.rows >= 0)
    found = found[np.argsort(-elsewhere.score[found], kind="stable")]
    leaking = [Leak(int(row), int(elsewhere.rows[row]), float(elsewhere.score[row])) for row in found]
    return NearDuplicates(links.groups(), best.rows, best.score, threshold, leaking)


def leaks(
    vectors: Features, splits: Sequence[Hashable], threshold: float = defaults.DUPLICATE_COSINE, *, centre: bool = True
) -> list[Leak]:
    """Return the near-duplicates in different ``splits`` (n,), called leaks; see near_duplicates."""
    return near_duplicates(vectors, threshold, splits=splits, centre=centre).leaks


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise UsageError(f"the threshold is {threshold}; a cosine above 0 and up to 1 is needed")


_Pairs = tuple[NDArray[np.int64], NDArray[np.int64], Floats]


def _pairs(
    vectors: NDArray[np.floating] | RowBlocks, threshold: float, progress: Callable[[int, int], None] | None
) -> Iterator[_Pairs]:
    """Yield (left, right, cosine): pairs of rows left < right whose cosine reaches ``threshold``, block by block."""
    # Allow for rounding: exact copies must be found at a threshold of 1.
    least = np.float32(threshold - 1e-6)
    rows = shape_of(vectors)[0]
    for outer_start, outer in _large_blocks(vectors):
        for start, block in prepared_blocks(vectors, "cosine"):
            if start + len(block) <= outer_start:
                continue
            for first in range(0, len(block), _INNER_ROWS):
                inner = block[first : first + _INNER_ROWS]
                for top in range(0, len(outer), _INNER_ROWS):
                    cosines = outer[top : top + _INNER_ROWS] @ inner.T
                    left, right = np.nonzero(cosines >= least)
                    score = np.minimum(cosines[left, right], np.float32(1))
                    left, right = left + outer_start + top, right + start + first
                    # A block that is compared with itself gives every pair twice: keep one of the two.
                    once = left < right
                    yield left[once], right[once], score[once]
            if progress is not None:
                through = (start + len(block) - outer_start) / (rows - outer_start)
                progress(outer_start + int(len(outer) * through), rows)


def _large_blocks(vectors: Features) -> Iterator[tuple[int, Floats]]:
    held: list[Floats] = []
    start = size = 0
    for _, block in prepared_blocks(vectors, "cosine"):
        held.append(block)
        size += len(block)
        if size >= _OUTER_ROWS:
            yield start, np.concatenate(held)
            start, size, held = start + size, 0, []
    if held:
        yield start, np.concatenate(held)


def _pairs_by_index(vectors: Features, threshold: float, index: FeatureIndex) -> Iterator[_Pairs]:
    if index.metric != "cosine":
        raise UsageError(f"near-duplicates need an index of cosines; this one is of {index.metric}")
    ids = index.ids
    if len(ids) != shape_of(vectors)[0]:
        raise UsageError(f"the index has {len(ids):,} rows, not {shape_of(vectors)[0]:,}; update it first")
    for start, block in prepared_blocks(vectors, "ip"):
        score, found = index.search(prepare(block, "ip"), defaults.NEIGHBOURS + 1)
        right = np.searchsorted(ids, found)
        left = np.broadcast_to(np.arange(start, start + len(block))[:, None], right.shape)
        good = (found >= 0) & (left != right) & (score >= threshold - 1e-6)
        yield left[good], right[good], score[good]


class _Nearest:
    """The most similar other row of each row; among equally similar rows, the one with the lowest row number."""

    def __init__(self, rows: int) -> None:
        self.rows = np.full(rows, -1, np.int64)
        self.score = np.full(rows, -np.inf, np.float32)

    def offer(self, row: NDArray[np.int64], partner: NDArray[np.int64], score: Floats) -> None:
        order = np.lexsort((partner, -score, row))
        row, partner, score = row[order], partner[order], score[order]
        first = np.r_[True, row[1:] != row[:-1]] if len(row) else np.zeros(0, np.bool_)
        row, partner, score = row[first], partner[first], score[first]
        better = (score > self.score[row]) | ((score == self.score[row]) & (partner < self.rows[row]))
        self.rows[row[better]], self.score[row[better]] = partner[better], score[better]


class _Links:
    """Finds the connected components of a graph whose edges arrive in blocks.

    One number per row, and the edges that are not merged yet, are kept in memory.
    """

    def __init__(self, rows: int) -> None:
        self._label = np.arange(rows)
        self._waiting: list[NDArray[np.int64]] = []
        self._count = 0

    def join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        if len(left):
            self._waiting.append(np.stack([left, right]))
            self._count += len(left)
        if self._count >= _EDGES_AT_ONCE:
            self._merge()

    def _merge(self) -> None:
        if not self._waiting:
            return
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rows = len(self._label)
        left, right = self._label[np.concatenate(self._waiting, axis=1)]
        graph = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(rows, rows))
        self._label = connected_components(graph, directed=False)[1].astype(np.int64)[self._label]
        self._waiting, self._count = [], 0

    def groups(self) -> list[NDArray[np.int64]]:
        self._merge()
        order = np.argsort(self._label, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(self._label[order])) + 1) if len(order) else []
        large = [part for part in parts if len(part) > 1]
        return sorted(large, key=lambda part: (-len(part), int(part[0])))
