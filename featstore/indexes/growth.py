"""Check whether an index keeps its recall contract (the required recall), also after rows were added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.indexes.recall import Recall, is_narrow, keeps


@dataclass(frozen=True)
class Standing:
    """State of a recall contract. ``holds``: whether it is met, None without a contract; ``text``: a line for users."""

    holds: bool | None
    text: str


def standing(info: Mapping[str, Any], file_bytes: int | None = None) -> Standing:
    """Return whether an index with this FeatureIndex.info() keeps its contract.

    The contract is kept if three conditions are met. The last measurement confirmed it. The rows added since then are
    at most the share ``defaults.UNMEASURED_GROWTH`` of the measured rows. The file (of ``file_bytes``, if given) is not
    larger than allowed. If the contract limits the latency, the latency of the finished index must have been measured.
    """
    contract, recall = info["contract"], info["recall"]
    if contract is None:
        return Standing(None, "the index has no contract")
    what = f"recall@{contract['at']} of at least {contract['recall']:g}"
    latency, measured = contract["latency"], contract.get("latency_seconds")
    if latency is not None:
        what += f", a query in at most {1000 * latency:.4g} ms"
    since = info["rows"] + info["removed"] - info["measured_rows"]
    if contract["memory"] is not None and file_bytes is not None and file_bytes > contract["memory"]:
        allowed = contract["memory"]
        return Standing(False, f"the contract is broken: {file_bytes:,} bytes where {allowed:,} are allowed")
    if latency is not None and measured is None:
        return Standing(
            False, f"the contract ({what}) is not known to hold: its latency was not measured; an update measures it"
        )
    if latency is not None and measured > latency:
        took, allowed = 1000 * measured, 1000 * latency
        return Standing(False, f"the contract is broken: a query takes {took:.3g} ms where {allowed:.4g} are allowed")
    timed = "" if latency is None else f"; a query took {1000 * measured:.3g} ms"
    if info["exact"]:
        return Standing(True, f"the contract ({what}) holds: every vector is compared{timed}")
    if recall["value"] is None:
        return Standing(False, f"the contract ({what}) is not known to hold: recall was not measured")
    figure = f"{recall['value']:.4f} [{recall['low']:.4f}, {recall['high']:.4f}] on {recall['queries']:,} pictures"
    if not contract["holds"]:
        return Standing(False, f"the contract ({what}) does not hold any more: {figure} that the index did not have")
    if since > defaults.UNMEASURED_GROWTH * info["measured_rows"]:
        return Standing(
            False,
            f"the contract ({what}) is not known to hold: {since:,} pictures came since {info['measured_rows']:,} "
            "were measured, never enough at once to measure again",
        )
    before = f", before the last {since:,} came" if since else ""
    return Standing(True, f"the contract ({what}) holds: {figure}{before}{timed}")


def judge(recall: Recall, goal: float) -> bool | None:
    """Return whether ``recall`` reaches ``goal``; None if there were too few queries to decide."""
    if keeps(recall, goal):
        return True
    if recall.low is None or recall.high is None:
        return None
    return False if recall.high < goal or is_narrow(recall) else None


def draw_queries(new: NDArray[np.bool_], groups: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Draw queries, to check the contract, from the rows marked in ``new`` (n,); return sorted row numbers.

    ``groups`` (n,): rows with the same number are copies. A row with a copy among the old rows would be found too
    easily and is never drawn. Of the remaining rows, up to ``defaults.CHECK_QUERIES`` whole groups are drawn. If there
    are fewer than ``defaults.FEWEST_QUERIES`` groups, too few for a conclusion, no rows are returned.
    """
    fresh = np.flatnonzero(new & ~np.isin(groups, groups[~new]))
    names = np.unique(groups[fresh])
    if len(names) < defaults.FEWEST_QUERIES:
        return fresh[:0]
    drawn = np.random.default_rng(seed).permutation(names)[: defaults.CHECK_QUERIES]
    return fresh[np.isin(groups[fresh], drawn)]
