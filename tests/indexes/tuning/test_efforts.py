"""Tuning the search parameters of an index, such as efSearch or nprobe, to a required recall."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from featstore.indexes.recall import reaches
from featstore.indexes.tuning.efforts import Subject, _smallest, descent, tune
from featstore.indexes.tuning.ladder import Candidate
from featstore.indexes.tuning.trials import create
from featstore.indexes.tuning.truth import Truth, find_truth


@pytest.mark.parametrize("count", [1, 2, 7])
def test_bisection_returns_the_smallest_number_that_fulfils_a_condition(count: int) -> None:
    for first in range(count + 1):
        assert _smallest(count, lambda place, first=first: place >= first) == (first if first < count else None)


@pytest.fixture(scope="module")
def ground() -> tuple[np.ndarray, Truth]:
    vectors = np.random.default_rng(0).standard_normal((2300, 24)).astype(np.float32)
    return vectors[:2000], find_truth(vectors[:2000], vectors[2000:], 5, metric="ip")


def subject_of(candidate: Candidate, vectors: np.ndarray) -> Subject:
    index = create(candidate.factory, 24, "ip", seed=0)
    index.train(vectors)
    index.add(vectors, np.arange(len(vectors)))
    return Subject(index, np.arange(len(vectors)))


GRAPH = Candidate("hnsw", "HNSW8", 0, "efSearch", (5, 10, 20, 50, 100, 300, 1000))
LISTS = Candidate("ivf", "IVF16,PQ6x4fs,Refine(SQfp16)", 0, "nprobe", (1, 2, 4, 8, 12, 16), (1.0, 4.0, 16.0, 64.0))
FINE = replace(LISTS, steps=tuple(range(1, 17)), depths=tuple(range(1, 65)))


@pytest.mark.parametrize("candidate", [GRAPH, LISTS])
@pytest.mark.parametrize("goal", [0.7, 0.95])
def test_tuning_sets_the_smallest_sufficient_search_parameter(
    candidate: Candidate, goal: float, ground: tuple[np.ndarray, Truth]
) -> None:
    subject = subject_of(candidate, ground[0])
    rate = tune(subject, candidate, ground[1], goal)
    assert rate is not None
    assert rate > 0
    assert reaches(subject.recall(ground[1]), goal)
    effort = subject.index.effort
    step = candidate.steps.index(int(effort[candidate.main]))
    if step:
        subject.index.effort = candidate.effort(step - 1, effort.get("k_factor"))
        assert not reaches(subject.recall(ground[1]), goal)


def test_tuning_chooses_the_fastest_pair_of_nprobe_and_k_factor(
    ground: tuple[np.ndarray, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(FINE, ground[0])
    tried: list[dict[str, float]] = []

    def timed(subject: Subject, truth: Truth) -> float:
        tried.append(subject.index.effort)
        return subject.index.effort["nprobe"] + subject.index.effort["k_factor"]

    monkeypatch.setattr(Subject, "timed", timed)
    rate = tune(subject, FINE, ground[1], 0.7)
    # The pairs (nprobe, k_factor) are timed in order of falling nprobe and rising k_factor, several times.
    pairs = [tuple(effort.values()) for effort in tried]
    front = pairs[: pairs.index(pairs[0], 1)]
    assert 1 < len(front) <= 8
    assert pairs[: 2 * len(front)] == 2 * front
    assert all(one["k_factor"] < other["k_factor"] for one, other in pairwise(tried[: len(front)]))
    assert all(one["nprobe"] > other["nprobe"] for one, other in pairwise(tried[: len(front)]))
    least = sum(subject.index.effort.values())
    assert least <= min(sum(pair) for pair in front)
    assert rate == pytest.approx(len(ground[1].queries) / least)


def test_tuning_sets_the_largest_parameters_if_the_recall_goal_cannot_be_reached(
    ground: tuple[np.ndarray, Truth],
) -> None:
    candidate = Candidate("coarse", "IVF16,PQ6x4fs,Refine(SQfp16)", 0, "nprobe", (1, 2), (1.0, 2.0))
    subject = subject_of(candidate, ground[0])
    assert tune(subject, candidate, ground[1], 0.99) is None
    assert subject.index.effort == {"nprobe": 2, "k_factor": 2.0}


@pytest.mark.parametrize("candidate", [replace(GRAPH, steps=tuple(range(5, 300))), FINE])
@pytest.mark.slow
def test_search_parameters_are_tried_in_order_of_falling_recall(
    candidate: Candidate, ground: tuple[np.ndarray, Truth]
) -> None:
    subject = subject_of(candidate, ground[0])
    goal, fresh = 0.8, 3.0
    found = list(descent(subject, candidate, ground[1], goal, fresh))
    assert len(found) > 5
    assert len({tuple(effort.items()) for effort in found}) == len(found)
    recalls = []
    for effort in found:
        subject.index.effort = effort
        recalls.append(subject.recall(ground[1]))
    values = [recall.value for recall in recalls]
    # descent() sorts by measured time, so two parameter settings of nearly equal recall may be swapped.
    assert all(later <= earlier + 0.01 for earlier, later in pairwise(values))
    assert reaches(recalls[0], goal)
    assert not reaches(recalls[-1], goal, fresh)


@pytest.mark.slow
def test_tuning_order_ignores_search_parameters_changed_by_the_caller(
    ground: tuple[np.ndarray, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subject, "timed", lambda self, truth: 1 + sum(self.index.effort.values()))
    subject = subject_of(FINE, ground[0])
    found = []
    for effort in descent(subject, FINE, ground[1], 0.8, 3.0):
        found.append(effort)
        subject.index.effort = FINE.effort(0, 1.0)
    assert found == list(descent(subject, FINE, ground[1], 0.8, 3.0))


def test_no_search_parameters_are_tried_if_the_recall_goal_cannot_be_reached(ground: tuple[np.ndarray, Truth]) -> None:
    coarse = replace(LISTS, steps=(1,), depths=(1.0,))
    assert list(descent(subject_of(coarse, ground[0]), coarse, ground[1], 0.9, 3.0)) == []


@pytest.mark.slow
def test_tuning_prefers_small_values_of_the_slower_search_parameter(
    ground: tuple[np.ndarray, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subject_of(FINE, ground[0])
    means = []
    for costly in ("nprobe", "k_factor"):
        monkeypatch.setattr(Subject, "timed", lambda self, truth, costly=costly: 1 + self.index.effort[costly])
        found = list(descent(subject, FINE, ground[1], 0.8, 3.0))
        means.append({name: np.mean([effort[name] for effort in found]) for name in ("nprobe", "k_factor")})
    assert means[0]["nprobe"] < means[1]["nprobe"]
    assert means[0]["k_factor"] > means[1]["k_factor"]


def test_latency_and_search_time_of_an_index_are_positive(ground: tuple[np.ndarray, Truth]) -> None:
    subject = subject_of(GRAPH, ground[0])
    assert 0 < subject.latency(ground[1].queries, 5) < 1
    assert 0 < subject.timed(ground[1]) < 10


def test_query_rates_of_two_indexes_are_measured_alternately(
    ground: tuple[np.ndarray, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = subject_of(GRAPH, ground[0]), subject_of(GRAPH, ground[0])
    asked: list[Subject] = []

    def timed(subject: Subject, truth: Truth) -> float:
        asked.append(subject)
        # Simulate a machine that gets slower: the index that is timed first must not seem faster.
        return (1.0 if subject is quick else 2.0) * (1 + len(asked) / 10)

    monkeypatch.setattr(Subject, "timed", timed)
    own, others = slow.rates_beside(quick, ground[1])
    assert asked[:4] == [slow, quick, slow, quick]
    assert others > own
