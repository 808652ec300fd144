from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from featstore.indexes.blocks import prepare
from featstore.indexes.tuning.truth import find_truth, hold_out
from tests.indexes.made import clusters


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_recall_accepts_any_of_several_rows_at_equal_distance(metric: str) -> None:
    vectors = np.concatenate([clusters(50, 8), np.repeat(clusters(1, 8, seed=9), 300, axis=0)])
    queries = prepare(vectors[[60, 3]], metric)
    truth = find_truth(vectors, queries, 10, metric=metric)
    copies = np.arange(340, 350)
    found = np.stack([copies, truth.rows[1, :10]])
    if metric == "ip":
        found[0] = truth.rows[0, :10]
    np.testing.assert_array_equal(truth.shares(found), [1, 1])
    wrong = np.stack([np.arange(10), np.full(10, -1)])
    assert truth.shares(wrong)[1] == 0


def test_drawing_recall_queries_holds_out_at_most_a_tenth_of_the_rows() -> None:
    held_out = hold_out(1000, 3000, seed=0)
    assert len(set(held_out.queries)) == len(held_out.queries) == held_out.withheld.sum() == 100
    assert len(hold_out(5, 3000, seed=0).queries) == 0
    assert not np.array_equal(held_out.queries, hold_out(1000, 3000, seed=1).queries)
    np.testing.assert_array_equal(held_out.queries, hold_out(1000, 3000, seed=0).queries)


def test_drawing_recall_queries_treats_groups_of_one_row_like_ungrouped_rows() -> None:
    assert hold_out(1000, 3000, seed=0, groups=np.arange(1000)).withheld.sum() == 100
    assert 100 < hold_out(1000, 3000, seed=0, groups=np.arange(1000) // 2).withheld.sum() <= 200


@pytest.mark.parametrize(("count", "wanted"), [(200, 60), (200, 1000), (20, 1000), (5, 1000)])
def test_drawing_recall_queries_holds_out_whole_groups_and_at_most_eight_queries_per_group(
    count: int, wanted: int
) -> None:
    groups = np.random.default_rng(0).integers(0, count, 1000)
    held_out = hold_out(1000, wanted, seed=0, groups=groups)
    queries = held_out.queries
    assert len(set(queries)) == len(queries) <= wanted
    np.testing.assert_array_equal(held_out.withheld, np.isin(groups, groups[queries]))
    assert held_out.withheld.sum() <= 200
    sizes = np.bincount(held_out.clusters)
    assert len(sizes) == len(set(groups[queries]))
    assert (sizes <= 8).all()
    assert bool(len(queries)) == (count > 5)
    for ends in (held_out.cuts(1, 2), held_out.cuts(1, 2, 2)):
        assert ends[-1] == len(queries)
        for end in ends[:-1]:
            assert not set(held_out.clusters[:end]) & set(held_out.clusters[end:])


def test_recall_interval_treats_queries_of_one_group_as_one_observation() -> None:
    vectors = clusters(300, 8)
    queries = prepare(np.repeat(vectors[:100], 5, axis=0), "cosine")
    alone = find_truth(vectors, queries, 10, metric="cosine")
    found = alone.rows[:, :10].copy()
    found[np.random.default_rng(0).random(100).repeat(5) < 0.2] = -1
    together = dataclasses.replace(alone, clusters=np.arange(100).repeat(5))
    assert together.recall(found).value == pytest.approx(alone.recall(found).value)
    wide, narrow = together.recall(found), alone.recall(found)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
