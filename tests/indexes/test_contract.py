"""Choosing an index that keeps a contract: the recall, memory and latency that the user requires."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from featstore import defaults
from featstore.errors import UsageError
from featstore.indexes import Contract, FeatureIndex, build_contract, check_contract, contract, verify
from featstore.indexes.growth import standing
from featstore.indexes.recall import Recall
from featstore.indexes.tuning.ladder import Candidate, flat
from tests.indexes.made import Source, clusters

ROWS, DIMENSION = 12_000, 24
GRAPH = Candidate("hnsw", "HNSW16_SQfp16", 2 * DIMENSION + 140, "efSearch", (10, 20, 40, 80, 160))
LISTS = Candidate(
    "ivf", "IVF64,PQ6x4fs,Refine(SQfp16)", 2 * DIMENSION + 20, "nprobe", (1, 2, 4, 8, 16, 32), (1.0, 4.0, 16.0)
)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clusters(ROWS + 2000, DIMENSION, centres=400)


def made(vectors: np.ndarray, asked: Contract, candidates: list[Candidate], **options: object) -> FeatureIndex:
    rows = vectors.shape[0]
    keys = [b"%d" % row for row in range(rows)]
    return build_contract(vectors, np.arange(rows) * 2, keys, asked, candidates=candidates, **options)


@pytest.mark.slow
@pytest.mark.parametrize("candidate", [GRAPH, LISTS])
def test_chosen_index_reaches_the_required_recall_on_fresh_queries(
    candidate: Candidate, vectors: np.ndarray, tmp_path: Path
) -> None:
    index = made(vectors[:ROWS], Contract(recall=0.9), [candidate])
    label = index.recall
    assert label.method == "held-out"
    assert label.low >= 0.9
    assert label.high - label.low <= 0.02
    assert index.info()["contract"]["holds"]
    fresh = check_contract(index, vectors[ROWS:], vectors[:ROWS], np.arange(ROWS) * 2)
    assert fresh.queries == 2000
    assert fresh.high >= label.low
    assert abs(check_contract(index, vectors[ROWS:]).value - fresh.value) < 0.02
    assert len(index) == ROWS
    _, found = index.search(vectors[:ROWS], 1)
    assert index.keys_of(found[:200]) == [b"%d" % (number // 2) for number in found[:200, 0]]
    assert (found[:, 0] == np.arange(ROWS) * 2).mean() > 0.9
    index.save(tmp_path / "x")
    assert verify(tmp_path / "x") == []
    back = FeatureIndex.open(tmp_path / "x")
    assert back.info()["trials"] == index.info()["trials"]
    np.testing.assert_array_equal(back.search(vectors[:50], 5)[1], index.search(vectors[:50], 5)[1])


@pytest.mark.slow
def test_table_of_tried_indexes_has_the_outcome_of_every_candidate(vectors: np.ndarray) -> None:
    hopeless = Candidate("hopeless", "IVF64,PQ6x4fs,Refine(SQfp16)", 10, "nprobe", (1,), (1.0,))
    large = Candidate("large", "HNSW32", 4 * DIMENSION + 300, "efSearch", (10,))
    asked = Contract(recall=0.9, memory=ROWS * 300)
    seen = []
    index = made(
        vectors[:ROWS],
        asked,
        [flat(DIMENSION), hopeless, large, GRAPH],
        progress=lambda *stage: seen.append(stage),
    )
    info = json.loads(json.dumps(index.info()))
    assert info["contract"]["memory"] == asked.memory
    outcomes = {trial["name"]: trial["outcome"] for trial in info["trials"]}
    assert outcomes.pop("hopeless") == "below the contract at its greatest effort"
    assert outcomes.pop("large") == "needs some 4,752,000 bytes where 3,600,000 are allowed"
    assert sorted(outcomes.values()) == ["chosen", "slower"]
    rates = {trial["outcome"]: trial["queries_per_second"] for trial in info["trials"]}
    assert rates["chosen"] > rates["slower"] > 0
    assert [stage for stage in seen if stage[0].startswith("tried")][-1] == ("tried hnsw", 4, 4)


def test_error_explains_why_each_candidate_index_is_unsuitable() -> None:
    with pytest.raises(UsageError, match=r"no kind of index fits: flat needs some 4,512 bytes where 9 are allowed"):
        made(clusters(4, DIMENSION), Contract(memory=9), [flat(DIMENSION)])
    with pytest.raises(UsageError, match="a query takes"):
        made(clusters(ROWS, DIMENSION), Contract(latency=1e-9), [flat(DIMENSION)])


def test_latency_of_exact_search_over_few_rows_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="flat a query takes .* ms where 1e-06 are allowed"):
        made(clusters(300, DIMENSION), Contract(latency=1e-9), [flat(DIMENSION)])
    index = made(clusters(300, DIMENSION), Contract(latency=10.0), [flat(DIMENSION)])
    assert index.info()["trials"][0]["latency_seconds"] > 0
    index.save(tmp_path / "x")
    told = FeatureIndex.open(tmp_path / "x").info()
    assert 0 < told["contract"]["latency_seconds"] < 10
    assert "holds: every vector is compared; a query took" in standing(told).text


def test_exact_search_is_chosen_for_few_rows() -> None:
    index = made(clusters(500, DIMENSION), Contract(recall=0.999), [flat(DIMENSION), GRAPH])
    assert index.exact
    assert index.recall == Recall(1.0, 1.0, 1.0, 10, 0, "exact")
    assert [trial["outcome"] for trial in index.info()["trials"]] == [
        "chosen",
        "not tried: of 500 vectors fewer than 1,000 can be held out to confirm its recall; exact search is fast for so few",
    ]


@pytest.mark.slow
def test_candidate_indexes_are_tried_on_a_sample_and_the_best_is_built_on_all_rows(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "CONTRACT_SAMPLE_BYTES", 4 * DIMENSION * 4000)
    index = made(Source(vectors[:ROWS], rows=3000), Contract(recall=0.9), [GRAPH])
    outcome = index.info()["contract"]
    assert outcome["sampled"]
    assert outcome["rows_tried"] == 4000
    assert len(index) == ROWS
    assert check_contract(index, vectors[ROWS:]).high >= index.recall.low >= 0.9


@pytest.mark.slow
def test_exact_search_replaces_an_index_that_misses_the_recall_on_fresh_queries(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "keeps", lambda recall, goal: recall.method == "exact")
    index = made(vectors[:ROWS], Contract(recall=0.5), [GRAPH])
    assert index.exact
    assert index.info()["factory"] == "Flat"
    assert [trial["outcome"] for trial in index.info()["trials"]] == [
        "missed the recall on held-out queries",
        "chosen: exact, because the fastest one missed the recall on held-out queries",
    ]
    assert index.info()["contract"]["efforts_asked"] == 1
    _, found = index.search(vectors[:100], 1)
    assert found[:, 0].tolist() == list(range(0, 200, 2))


@pytest.mark.slow
def test_index_uses_the_fastest_search_parameter_whose_recall_new_queries_confirm(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recall] = []

    def keeps(recall: Recall, goal: float) -> bool:
        seen.append(recall)
        return recall in seen[:3]

    monkeypatch.setattr(contract, "keeps", keeps)
    fine = dataclasses.replace(GRAPH, factory="HNSW4", steps=tuple(range(10, 60)))
    index = made(vectors[:ROWS], Contract(recall=0.9), [fine])
    told = index.info()["contract"]
    assert told["holds"]
    assert told["efforts_asked"] == 4
    assert index.recall == seen[2]
    assert seen[0].value > seen[2].value > seen[3].value
    assert not index.exact


@pytest.mark.slow
def test_exact_search_that_replaces_an_index_must_fit_into_the_memory_limit(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "keeps", lambda recall, goal: False)
    room = int(1.2 * LISTS.file_bytes(ROWS))
    with pytest.raises(UsageError, match="does not keep a recall of 0.5 on fresh queries, and exact search needs"):
        made(vectors[:ROWS], Contract(recall=0.5, memory=room), [LISTS])


@pytest.mark.slow
def test_compressed_vectors_are_tried_only_if_the_memory_limit_requires_them(vectors: np.ndarray) -> None:
    smaller = dataclasses.replace(
        GRAPH, name="small", factory="HNSW16_SQ8", row_bytes=166, smaller_than="hnsw", steps=(10,)
    )
    for memory, outcomes in (
        (None, ["chosen", "not needed: hnsw fits in memory"]),
        # The index "hnsw" would fit into the memory, but building the index needs more.
        (
            ROWS * 190,
            ["needs some 2,256,000 bytes where 2,280,000 are allowed, a tenth of them for building it", "chosen"],
        ),
    ):
        index = made(vectors[:ROWS], Contract(recall=0.5, memory=memory), [GRAPH, smaller])
        assert [trial["outcome"] for trial in index.info()["trials"]] == outcomes


@pytest.mark.slow
def test_recall_after_growth_is_measured_against_all_rows_of_the_store(vectors: np.ndarray) -> None:
    index = made(vectors[:ROWS], Contract(recall=0.9), [GRAPH])
    gone = np.arange(0, 2000, 2)
    index.add(vectors[ROWS : ROWS + 1000], np.arange(1000) * 2 + 1, [b"new"] * 1000)
    index.remove(gone)
    kept = np.r_[np.arange(1000, ROWS), np.arange(ROWS, ROWS + 1000)]
    ids = np.r_[np.arange(1000, ROWS) * 2, np.arange(1000) * 2 + 1]
    assert check_contract(index, vectors[ROWS + 1000 :], vectors[kept], ids).high >= 0.9
    assert index.info()["measured_rows"] == ROWS
    index.set_recall(check_contract(index, vectors[ROWS + 1000 :], vectors[kept], ids))
    assert index.info()["measured_rows"] == ROWS + 1000
    assert index.info()["contract"]["holds"]
    assert index.recall.queries == 1000
    # True neighbours that are not in the index count as misses.
    assert check_contract(index, vectors[ROWS + 1000 :], vectors[:ROWS], np.arange(ROWS) * 2 + 10**9).value == 0
    index.set_recall(Recall(0.8, 0.79, 0.81, 10, 1000, "held-out"))
    assert not index.info()["contract"]["holds"]


@pytest.mark.parametrize("asked", [{"recall": 0}, {"recall": 1.1}, {"at": 0}, {"memory": 0}, {"latency": -1}])
def test_index_contract_rejects_invalid_values(asked: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(asked))):
        made(clusters(30, DIMENSION), Contract(**asked), [flat(DIMENSION)])
    with pytest.raises(UsageError, match="need their ids"):
        check_contract(
            made(clusters(30, DIMENSION), Contract(), [flat(DIMENSION)]), clusters(3, DIMENSION), clusters(9, DIMENSION)
        )
