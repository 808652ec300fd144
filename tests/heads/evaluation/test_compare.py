from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.errors import DataError
from featstore.heads.evaluation.compare import compare
from featstore.heads.evaluation.report import evaluate


def made(rows, strength, seed):
    random = np.random.default_rng(seed)
    codes = np.random.default_rng(99).integers(0, 2, rows)
    logits = random.standard_normal(rows) + strength * (2 * codes - 1)
    positive = 1 / (1 + np.exp(-2 * strength * logits))
    return codes, np.stack([1 - positive, positive], axis=1)


def test_comparison_of_heads_finds_the_better_one_and_agrees_with_evaluate():
    codes, weak = made(600, 0.5, 1)
    _, strong = made(600, 1.2, 2)
    accuracy, _, log_loss = compare(codes, weak, strong, [0, 1], replicates=300)
    assert accuracy.low > 0
    assert accuracy.p_value < 0.01
    assert log_loss.high < 0
    for values, name in ((weak, "a"), (strong, "b")):
        report = evaluate(codes, values, [0, 1], replicates=2)
        assert getattr(accuracy, name) == pytest.approx(report.accuracy.value)
    assert accuracy.low <= accuracy.difference <= accuracy.high
    assert json.dumps(accuracy.to_dict())


def test_comparing_a_head_with_itself_finds_no_difference():
    codes, values = made(200, 0.7, 3)
    accuracy, balanced, log_loss = compare(codes, values, values, [0, 1], replicates=1000)
    for one in (accuracy, balanced, log_loss):
        assert (one.difference, one.p_value) == (0, 1)
    # Upper Clopper-Pearson limit of the probability of an event that did not occur in 200 rows.
    limit = 1 - 0.025 ** (1 / 200)
    assert (accuracy.low, accuracy.high) == pytest.approx((-limit, limit), rel=0.15)
    assert balanced.low < 0 < balanced.high
    assert (log_loss.low, log_loss.high) == (0, 0)


def test_paired_comparison_separates_heads_with_overlapping_intervals():
    codes, values = made(2000, 0.8, 4)
    better = values.copy()
    wrong = np.flatnonzero(values.argmax(axis=1) != codes)[:20]
    better[wrong] = values[wrong, ::-1]
    accuracy = compare(codes, values, better, [0, 1], measures=["accuracy"], replicates=300)[0]
    assert accuracy.low > 0
    first, second = (evaluate(codes, v, [0, 1], replicates=2).accuracy for v in (values, better))
    assert first.high > second.low


def test_grouped_copies_do_not_narrow_the_interval_of_the_difference():
    codes, a = made(60, 0.6, 5)
    _, b = made(60, 0.9, 6)
    groups = np.repeat(np.arange(60), 20)
    repeated = [np.repeat(values, 20, axis=0) for values in (a, b)]
    many = np.repeat(codes, 20)
    alone = compare(codes, a, b, [0, 1], measures=["accuracy"], replicates=400)[0]
    grouped = compare(many, *repeated, [0, 1], measures=["accuracy"], groups=groups, replicates=400)[0]
    naive = compare(many, *repeated, [0, 1], measures=["accuracy"], replicates=400)[0]
    assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.2)
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measures": ["luck"]}, "unknown measure 'luck'"),
        ({"probabilities_b": np.zeros((3, 2))}, "shape"),
        ({"classes": [0]}, "does not know"),
        ({"probabilities_a": np.full((20, 2), np.nan)}, "finite"),
    ],
)
def test_comparison_of_heads_rejects_bad_input_with_a_one_line_error(change, message):
    codes, values = made(20, 1, 1)
    call = {"y_true": codes, "probabilities_a": values, "probabilities_b": values, "classes": [0, 1]} | change
    with pytest.raises(DataError, match=message):
        compare(**call)
