"""Recall@k against exact search, tolerating ties, with an interval that treats each query as one observation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError
from featstore.indexes.blocks import Floats
from featstore.stats import wilson_interval

_WIDEST = 0.02
_Z95 = 1.959963984540054
_STEP, _SURER, _QUICKER = 0.1, 32, 20
_FAR_ABOVE = (0.2, 0.4, 0.6, 0.8)
TOLERANCE = 1e-6
"""Relative tolerance for ties: a float32 sum can change by this much if the order of summation changes."""


@dataclass(frozen=True)
class Recall:
    """Recall@``k`` of an index, 0..1, with its 95 % interval.

    ``method``: "held-out" (queries that were not in the index when measured), "exact" (a full scan at full
    precision: 1 by construction, without queries) or "not measured" (too few rows).
    """

    value: float | None
    low: float | None
    high: float | None
    k: int
    queries: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Return recall, interval and method as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> Recall:
        """Return the Recall from a dict that ``to_dict`` made; raise DamagedError if ``value`` is not such a dict."""
        try:
            recall = cls(**value)
        except TypeError:
            raise DamagedError("the recall on the index's label is damaged") from None
        figures = [isinstance(figure, int | float) for figure in (recall.value, recall.low, recall.high)]
        known = all(figures) if recall.value is not None else recall.low is None and recall.high is None
        if not known or not isinstance(recall.k, int) or not isinstance(recall.queries, int):
            raise DamagedError("the recall on the index's label is damaged")
        return recall


def mean_interval(shares: NDArray[np.float64], parts: int) -> tuple[float, float]:
    """Return a 95 % interval of the mean recall of q queries.

    ``shares`` (q,): recall of each query, the share of its ``parts`` true neighbours that were found.

    Returns Wilson's interval for the effective number of trials, q p(1-p) / s^2, with mean p and variance s^2 of the
    shares (the design effect, as in E. Korn & B. Graubard, Survey Methodology 1998). This number is at least q (as if
    the neighbours of a query were found or missed together) and at most q * parts (as if they were independent). s^2
    includes one additional query that found nothing. Without it, a sample in which hardly any query missed a neighbour
    would count as q * parts independent trials. In simulations of 60 queries, of which 1 % miss all neighbours, the
    interval covers the true recall in 97 % of cases; without the additional query it would be 77 %. Unlike a bootstrap
    interval, this interval has a positive width even if every share is 1.
    """
    queries = len(shares)
    if queries == 0:
        return 0.0, 1.0
    mean = float(shares.mean())
    spread = (float(((shares - mean) ** 2).sum()) + mean**2) / queries
    gain = mean * (1 - mean) / spread if spread > 0 else 1.0
    return wilson_interval(mean, queries * min(max(gain, 1.0), float(parts)))


def reaches(recall: Recall, goal: float, fresh: float = 1.0) -> bool:
    """Return whether the lower 95 % bound of ``recall`` is at least ``goal``.

    The bound is computed for ``fresh`` times as many queries with the same recall.
    """
    if recall.value is None or recall.low is None:
        return False
    return recall.value - (recall.value - recall.low) / math.sqrt(fresh) >= goal


def aims(tuned: Recall, goal: float, fresh: float) -> list[float]:
    """Return target recalls for tuning, descending.

    The targets lie around a centre: the recall with which an index is expected to have the lower 95 % bound ``goal`` in
    the final test, which uses other queries. ``tuned``: a measured recall near the goal; ``fresh``: number of test
    queries divided by the number of tuning queries. The targets range from 2 standard deviations (of the difference
    between tuning and test) below the centre to 3.2 above it. Most are above, because only exact search remains if the
    first target fails the test. A few targets are much higher: if recall varies strongly between queries, only a high
    recall has a narrow interval.
    """
    if tuned.value is None or tuned.low is None:
        return []
    half = tuned.value - tuned.low
    other = half / math.sqrt(fresh)
    spread = math.hypot(half, other) / _Z95
    near = [aim for place in range(_SURER, -_QUICKER - 1, -1) if (aim := goal + other + _STEP * place * spread) <= 1]
    return [*(1 - share * (1 - near[0]) for share in _FAR_ABOVE), *near] if near else [1.0]


def keeps(recall: Recall, goal: float) -> bool:
    """Return whether ``recall`` is exact, or its 95 % interval starts at ``goal`` or above and is at most 0.02 wide."""
    if recall.method == "exact":
        return True
    return reaches(recall, goal) and is_narrow(recall)


def is_narrow(recall: Recall) -> bool:
    """Return whether the 95 % interval of ``recall`` is at most 0.02 wide, that is, narrow enough for a conclusion."""
    return recall.low is not None and recall.high is not None and recall.high - recall.low <= _WIDEST


def scale_of(queries: Floats, kth: Floats, inner_product: bool) -> NDArray[np.float64]:
    """Return the magnitude (q,) of the scores, to convert a relative tolerance to an absolute one.

    ``kth`` (q,): the k-th best score of each query.
    """
    squares = np.einsum("ij,ij->i", queries, queries).astype(np.float64)
    kth = np.where(np.isfinite(kth), np.abs(kth), 0).astype(np.float64)
    scale: NDArray[np.float64] = np.maximum(squares, kth) if inner_product else squares + kth
    return scale


def recall_at_k(
    exact_scores: Floats,
    exact_rows: NDArray[np.int64],
    found: NDArray[np.int64],
    k: int,
    *,
    inner_product: bool = True,
    scale: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return each query's recall@k (q,), 0..1: the share of its ``k`` true neighbours that were found.

    ``exact_scores``, ``exact_rows`` (q, K >= k): the true neighbours, best first, -1 for none. Every row whose score
    equals the k-th (within TOLERANCE x ``scale`` (q,), by default the magnitude of the k-th score) counts as a true
    neighbour, so K should include all ties. ``found`` (q, k): rows that the index returned. If fewer than ``k``
    neighbours exist, recall is relative to their number; without any neighbour it is 1.
    """
    valid = exact_rows >= 0
    goodness = np.where(valid, exact_scores if inner_product else -exact_scores, -np.inf).astype(np.float64)
    wanted = np.minimum(valid.sum(axis=1), k)
    kth = np.take_along_axis(goodness, np.maximum(wanted - 1, 0)[:, None], axis=1)[:, 0]
    kth = np.where(wanted > 0, kth, 0.0)
    slack = TOLERANCE * (np.abs(kth) if scale is None else scale)
    better = valid & (goodness > (kth + slack)[:, None])
    tied = valid & ~better & (goodness >= (kth - slack)[:, None])
    hit = ((found[:, :k, None] == exact_rows[:, None, :]) & (found[:, :k, None] >= 0)).any(axis=1)
    right = (hit & better).sum(axis=1) + np.minimum((hit & tied).sum(axis=1), wanted - better.sum(axis=1))
    shares: NDArray[np.float64] = np.where(wanted > 0, right / np.maximum(wanted, 1), 1.0)
    return shares
