from __future__ import annotations

import numpy as np
import pytest

from featstore.errors import DamagedError
from featstore.indexes.recall import Recall, aims, keeps, mean_interval, reaches, recall_at_k
from featstore.stats import wilson_interval


def shares(scores: list[float], found: list[int], k: int, inner_product: bool = True) -> float:
    rows = np.arange(len(scores))[None]
    return float(
        recall_at_k(np.array([scores], np.float32), rows, np.array([found]), k, inner_product=inner_product)[0]
    )


def test_recall_is_the_share_of_neighbours_found() -> None:
    assert shares([0.9, 0.8, 0.7, 0.6], [0, 1], 2) == 1
    assert shares([0.9, 0.8, 0.7, 0.6], [1, 2], 2) == 0.5
    assert shares([0.9, 0.8, 0.7, 0.6], [3, -1], 2) == 0
    assert shares([0.1, 0.2, 0.3], [2, 0], 2, inner_product=False) == 0.5


def test_recall_counts_a_row_tied_with_the_last_neighbour_as_found() -> None:
    assert shares([0.9, 0.5, 0.5, 0.5], [0, 3], 2) == 1
    assert shares([0.9, 0.5, 0.5, 0.5], [2, 3], 2) == 0.5
    assert shares([0.5, 0.5, 0.5, 0.5], [3, 2], 2) == 1


def test_recall_with_fewer_than_k_neighbours_is_relative_to_their_number() -> None:
    rows = np.array([[4, -1, -1], [-1, -1, -1]])
    scores = np.array([[0.5, -np.inf, -np.inf], [-np.inf] * 3], np.float32)
    np.testing.assert_array_equal(recall_at_k(scores, rows, np.array([[4, -1], [-1, -1]]), 2), [1, 1])
    np.testing.assert_array_equal(recall_at_k(scores, rows, np.array([[5, -1], [5, -1]]), 2), [0, 1])


@pytest.mark.parametrize("together", [0.0, 1.0])
def test_recall_interval_covers_the_true_recall(together: float) -> None:
    # ``together`` 0: each neighbour is missed independently. ``together`` 1: a query finds all its neighbours or none.
    random = np.random.default_rng(5)
    covered, widths = 0, []
    for _ in range(400):
        alone = random.random((300, 10)) < 0.93
        fate = random.random((300, 1)) < 0.93
        low, high = mean_interval(np.where(together, fate, alone).mean(axis=1), 10)
        covered += low <= 0.93 <= high
        widths.append(high - low)
    assert covered >= 0.92 * 400
    assert np.mean(widths) < (0.06 if together else 0.022)


def test_recall_interval_keeps_its_coverage_if_a_few_queries_fail() -> None:
    random = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        found = (random.random((60, 10)) < 0.998).mean(axis=1)
        found[random.random(60) < 0.01] = 0
        low, high = mean_interval(found, 10)
        covered += low <= 0.99 * 0.998 <= high
    assert covered >= 0.94 * 400
    one_miss = np.r_[np.ones(99), 0.9]
    assert mean_interval(one_miss, 10)[0] == pytest.approx(wilson_interval(0.999, 100)[0], abs=1e-3)


def test_recall_interval_has_positive_width_at_full_recall() -> None:
    low, high = mean_interval(np.ones(100), 10)
    assert high == 1
    assert 0.95 < low < 0.97


def test_recall_record_survives_json_and_refuses_damaged_json() -> None:
    label = Recall(0.95, 0.94, 0.96, 10, 2000, "held-out")
    assert Recall.from_dict(label.to_dict()) == label
    with pytest.raises(DamagedError):
        Recall.from_dict({"value": 1})
    with pytest.raises(DamagedError):
        Recall.from_dict(None)


def test_wide_recall_interval_does_not_confirm_the_required_recall() -> None:
    assert keeps(Recall(0.97, 0.96, 0.979, 10, 500, "held-out"), 0.95)
    assert not keeps(Recall(0.97, 0.955, 0.976, 10, 500, "held-out"), 0.95)
    assert not keeps(Recall(0.97, 0.949, 0.965, 10, 500, "held-out"), 0.95)
    assert not keeps(Recall(None, None, None, 10, 0, "not measured"), 0.95)


def of_share(share: float, count: int) -> Recall:
    return Recall(share, *wilson_interval(share, count), 1, count, "held-out")


def test_target_recalls_for_tuning_range_from_easy_to_nearly_unreachable() -> None:
    """``aims`` returns the target recalls for tuning, from high to low.

    Search parameters tuned to a high recall nearly always reach the required recall on new queries too; parameters
    tuned to the lowest recall almost never do.
    """
    random = np.random.default_rng(0)
    goal, tuning, fresh = 0.9, 400, 1200
    above, aimed = np.split(aims(of_share(0.92, tuning), goal, fresh / tuning), [4])
    assert (np.diff([1, *above, *aimed]) < 0).all()
    assert np.diff(aimed) == pytest.approx(np.full(52, aimed[1] - aimed[0]))
    confirmed = {}
    for aim in (aimed[0], aimed[32], aimed[-1]):
        right = np.clip(aim - random.normal(0, np.sqrt(aim * (1 - aim) / tuning), 4000), 0, 1)
        shown = random.binomial(fresh, right) / fresh
        confirmed[aim] = np.mean([reaches(of_share(share, fresh), goal) for share in shown])
    assert confirmed[aimed[0]] > 0.995
    assert 0.3 < confirmed[aimed[32]] < 0.7
    assert confirmed[aimed[-1]] < 0.05
    assert max(aims(of_share(0.999, tuning), 0.998, 3.0)) <= 1
    assert all(0 < aim <= 1 for aim in aims(of_share(0.5, tuning), 1.0, 3.0))
    assert aims(Recall(None, None, None, 10, 0, "not measured"), goal, 3.0) == []
