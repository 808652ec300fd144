"""Whether an index keeps its contract (required recall, memory and latency) after rows were added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featstore import defaults
from featstore.indexes.growth import draw_queries, judge, standing
from featstore.indexes.recall import Recall

MEASURED = Recall(0.97, 0.96, 0.975, 10, 2000, "held-out")


def info(**changes: Any) -> dict[str, Any]:
    contract = {"recall": 0.95, "at": 10, "memory": 5000, "latency": None, "holds": True}
    told = {"contract": contract, "recall": MEASURED.to_dict(), "rows": 1000, "removed": 0, "measured_rows": 1000}
    return {**told, "exact": False, **changes}


def test_index_report_says_whether_the_limits_of_the_contract_are_still_kept() -> None:
    assert standing(info()).holds
    assert standing(info(contract=None)).holds is None
    assert standing(info(contract={**info()["contract"], "holds": False})).holds is False
    assert standing(info(), 5001).text == "the contract is broken: 5,001 bytes where 5,000 are allowed"
    assert standing(info(exact=True), 5000).text.endswith("every vector is compared")
    assert standing(info(rows=1000, removed=100)).text.endswith(", before the last 100 came")
    unmeasured = Recall(None, None, None, 10, 0, "not measured").to_dict()
    assert standing(info(recall=unmeasured)).text.endswith("recall was not measured")
    unknown = standing(info(rows=1001, removed=100))
    assert unknown.holds is False
    assert "not known to hold: 101 pictures came since 1,000 were measured" in unknown.text


def test_index_contract_with_a_latency_holds_only_if_the_latency_was_measured() -> None:
    asked = {**info()["contract"], "latency": 0.005}
    unmeasured = standing(info(contract=asked, exact=True))
    assert unmeasured.holds is False
    assert unmeasured.text.endswith("its latency was not measured; an update measures it")
    slow = standing(info(contract={**asked, "latency_seconds": 0.006}))
    assert (slow.holds, slow.text) == (False, "the contract is broken: a query takes 6 ms where 5 are allowed")
    quick = standing(info(contract={**asked, "latency_seconds": 0.001}))
    assert quick.holds
    assert quick.text.startswith("the contract (recall@10 of at least 0.95, a query in at most 5 ms) holds: 0.9700")
    assert quick.text.endswith("; a query took 1 ms")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.951, 0.97, True), (0.96, 1.0, None), (0.90, 0.98, None), (0.94, 0.95, False), (0.5, 0.9, False)],
)
def test_index_contract_is_undecided_if_the_recall_interval_contains_its_recall(
    low: float, high: float, verdict: bool | None
) -> None:
    assert judge(Recall((low + high) / 2, low, high, 10, 50, "held-out"), 0.95) is verdict
    assert judge(Recall(None, None, None, 10, 0, "not measured"), 0.95) is None


def test_queries_that_check_a_grown_index_exclude_copies_of_old_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    new = np.arange(1000) >= 500
    groups = np.arange(1000)
    groups[500:600] = np.arange(100)  # rows 500 to 599 are copies of earlier rows
    groups[600:700:2] = groups[601:700:2]  # rows 600 to 699 are pairs of copies
    assert draw_queries(new, groups, 0).tolist() == list(range(600, 1000))
    monkeypatch.setattr(defaults, "CHECK_QUERIES", 120)
    drawn = draw_queries(new, groups, 0)
    assert len(np.unique(groups[drawn])) == 120
    assert np.isin(groups, groups[drawn]).sum() == len(drawn)
    assert drawn.min() >= 600
    assert draw_queries(new, groups, 1).tolist() != drawn.tolist()
    assert len(draw_queries(np.arange(1000) >= 901, groups, 0)) == 0
