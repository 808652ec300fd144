"""Held-out queries with their true neighbours (ground truth), for measuring recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features
from featstore.indexes.blocks import Floats, Metric, shape_of
from featstore.indexes.exact import exact_search
from featstore.indexes.recall import TOLERANCE, Recall, mean_interval, recall_at_k, scale_of

_MOST_TIES = 1024
_ASKING = 8


@dataclass(frozen=True)
class Truth:
    """Prepared queries (q, d) with the ``scores`` and ``rows`` of their true neighbours, both (q, K).

    K is larger than ``k`` if some rows tie with the k-th neighbour, because tied rows are included.

    ``clusters`` (q,): queries with the same number count as one observation; None if all queries are independent.
    """

    queries: Floats
    scores: Floats
    rows: NDArray[np.int64]
    k: int
    inner_product: bool
    clusters: NDArray[np.int64] | None = None

    def shares(self, found: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return each query's recall (q,) given the rows ``found`` (q, k)."""
        scale = scale_of(self.queries, self.scores[:, min(self.k, self.scores.shape[1]) - 1], self.inner_product)
        return recall_at_k(self.scores, self.rows, found, self.k, inner_product=self.inner_product, scale=scale)

    def recall(self, found: NDArray[np.int64]) -> Recall:
        """Return the mean recall over all queries, with its 95 % interval. ``found`` (q, k): the rows found."""
        shares = self.shares(found)
        if not len(shares):
            return Recall(None, None, None, self.k, 0, "not measured")
        parts = self.k
        if self.clusters is not None:
            # Average per cluster first: queries of one cluster (such as crops of one picture) are correlated, so only
            # clusters are independent observations.
            _, place, sizes = np.unique(self.clusters, return_inverse=True, return_counts=True)
            shares, parts = np.bincount(place, shares) / sizes, self.k * int(sizes.max())
        low, high = mean_interval(shares, parts)
        return Recall(float(shares.mean()), low, high, self.k, len(self.queries), "held-out")

    def part(self, first: int, last: int) -> Truth:
        """Return the queries ``first`` to ``last`` - 1 with their true neighbours."""
        part = slice(first, last)
        clusters = None if self.clusters is None else self.clusters[part]
        return Truth(self.queries[part], self.scores[part], self.rows[part], self.k, self.inner_product, clusters)


def find_truth(
    vectors: Features,
    queries: Floats,
    k: int,
    *,
    metric: Metric,
    allowed: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> Truth:
    """Search ``queries`` (q, d) exactly among the ``allowed`` rows, including all ties with the k-th neighbour.

    At most 1,024 tied rows are kept; further tied rows count as misses.
    """
    depth = min(shape_of(vectors)[0], 2 * k + 16)
    scores, rows = exact_search(vectors, queries, depth, metric=metric, allowed=allowed, threads=threads)
    while depth < min(shape_of(vectors)[0], _MOST_TIES):
        kth = scores[:, min(k, depth) - 1]
        slack = TOLERANCE * scale_of(queries, kth, metric != "l2")
        with np.errstate(invalid="ignore"):
            open_ended = (rows[:, -1] >= 0) & (np.abs(scores[:, -1] - kth) <= slack)
        if not open_ended.any():
            break
        depth = min(shape_of(vectors)[0], _MOST_TIES, 4 * depth)
        deeper, deeper_rows = exact_search(
            vectors, queries[open_ended], depth, metric=metric, allowed=allowed, threads=threads
        )
        added = depth - scores.shape[1]
        scores = np.pad(scores, ((0, 0), (0, added)), constant_values=-np.inf if metric != "l2" else np.inf)
        rows = np.pad(rows, ((0, 0), (0, added)), constant_values=-1)
        scores[open_ended], rows[open_ended] = deeper, deeper_rows
    return Truth(queries, scores, rows, k, metric != "l2")


@dataclass(frozen=True)
class HeldOut:
    """Rows that are kept out of an index while its recall is measured.

    ``queries`` int64 (q,): rows used as queries. ``clusters`` int64 (q,), sorted: queries with the same number belong
    to one group and count as one observation. ``withheld`` bool (n,): marks the queries and all other rows of their
    groups.
    """

    queries: NDArray[np.int64]
    clusters: NDArray[np.int64]
    withheld: NDArray[np.bool_]

    def cuts(self, *weights: int) -> list[int]:
        """Divide the held-out queries into parts in the ratio of ``weights``; return the end index of each part.

        Queries of one cluster (such as crops of one picture) stay in one part.
        """
        ends = [len(self.queries) * sum(weights[: place + 1]) // sum(weights) for place in range(len(weights))]
        # If a part would end in the middle of a cluster, it ends before that cluster instead.
        return [
            int(np.searchsorted(self.clusters, self.clusters[end])) if end < len(self.queries) else end for end in ends
        ]


def hold_out(rows: int, wanted: int, seed: int, groups: NDArray[np.int64] | None = None) -> HeldOut:
    """Draw up to ``wanted`` of ``rows`` rows as queries, and withhold these rows from the index.

    ``groups`` (n,): rows of one group are near copies, for example crops of one picture. All rows of a drawn group are
    withheld, because the index would otherwise contain near copies of the queries. At most eight rows of a group become
    queries. At most a tenth of the rows is withheld, or a fifth if groups have two or more rows on average, because a
    group counts as only one observation.
    """
    random = np.random.default_rng(seed)
    withheld = np.zeros(rows, np.bool_)
    if groups is None:
        queries = random.choice(rows, min(wanted, rows // 10), replace=False).astype(np.int64)
        withheld[queries] = True
        return HeldOut(queries, np.arange(len(queries)), withheld)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, groups[order][1:] != groups[order][:-1]]) if rows else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], rows]
    most = rows // (5 if 2 * len(starts) <= rows else 10)
    asking: list[NDArray[np.int64]] = []
    taken = count = 0
    for group in random.permutation(len(starts)):
        members = order[starts[group] : ends[group]]
        if count >= wanted or taken + len(members) > most:
            break
        asking.append(random.choice(members, min(len(members), _ASKING, wanted - count), replace=False))
        withheld[members] = True
        taken += len(members)
        count += len(asking[-1])
    clusters = np.repeat(np.arange(len(asking)), [len(part) for part in asking])
    return HeldOut(np.concatenate([np.zeros(0, np.int64), *asking]), clusters.astype(np.int64), withheld)
