from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import UsageError
from featstore.indexes import exact
from featstore.indexes.blocks import Metric
from tests.indexes.made import Source, best_scores, brute_force, clusters


@given(
    st.sampled_from(["cosine", "l2", "ip"]),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 10**6),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_exact_search_equals_brute_force(metric: Metric, rows: int, k: int, seed: int, filtered: bool) -> None:
    vectors, queries = clusters(rows, 5, seed), clusters(3, 5, seed + 1)
    vectors[rows // 2] = vectors[0]
    allowed = np.random.default_rng(seed).random(rows) < 0.5 if filtered else None
    scores, found = exact.exact_search(Source(vectors), queries, k, metric=metric, allowed=allowed)
    truth = brute_force(vectors, queries, metric, allowed)
    np.testing.assert_allclose(scores, best_scores(truth, k, metric), rtol=1e-5, atol=1e-5)
    for query in range(3):
        names = found[query][found[query] >= 0]
        assert len(set(names)) == len(names) == min(k, rows if allowed is None else int(allowed.sum()))
        np.testing.assert_allclose(truth[query, names], scores[query, : len(names)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_leave_one_out_accuracy_equals_brute_force(metric: Metric) -> None:
    vectors = clusters(120, 6, centres=4)
    labels = [None if row % 11 == 0 else f"class {row % 3}" for row in range(120)]
    taken = np.array([label is not None for label in labels])
    scores = brute_force(vectors, vectors, metric, taken)
    np.fill_diagonal(scores, np.inf if metric == "l2" else -np.inf)
    nearest = (scores.argmin(axis=1) if metric == "l2" else scores.argmax(axis=1))[taken]
    right = np.mean([labels[a] == labels[b] for a, b in zip(np.flatnonzero(taken), nearest, strict=True)])
    got = exact.leave_one_out_accuracy(Source(vectors), labels, metric)
    assert got.accuracy == pytest.approx(right)
    assert got.queries == taken.sum()
    assert got.low < got.accuracy < got.high


def test_leave_one_out_treats_copies_as_neighbours_of_each_other() -> None:
    vectors = np.repeat(clusters(5, 8), 3, axis=0)
    assert exact.leave_one_out_accuracy(vectors, [row // 3 for row in range(15)]).accuracy == 1
    assert exact.leave_one_out_accuracy(vectors, list(range(15))).accuracy == 0


def test_leave_one_out_accuracy_can_use_a_sample_of_queries_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = clusters(200, 6), [row % 2 for row in range(200)]
    whole = exact.leave_one_out_accuracy(vectors, labels)
    monkeypatch.setattr(exact, "_QUERIES_AT_ONCE", 33)
    assert exact.leave_one_out_accuracy(vectors, labels) == whole
    assert exact.leave_one_out_accuracy(vectors, labels, sample=50).queries == 50


def test_exact_search_rejects_invalid_requests() -> None:
    vectors = clusters(10, 4)
    with pytest.raises(UsageError, match="backbone"):
        exact.exact_search(vectors, clusters(1, 5), 1)
    with pytest.raises(UsageError, match="at least 1"):
        exact.exact_search(vectors, vectors, 0)
    with pytest.raises(UsageError, match="at least two"):
        exact.leave_one_out_accuracy(vectors, ["a"] + [None] * 9)
    with pytest.raises(UsageError, match="9 labels"):
        exact.leave_one_out_accuracy(vectors, ["a"] * 9)
