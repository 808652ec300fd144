from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.errors import DataError
from featstore.heads.evaluation.compare import Difference, compare
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


def several(hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities, group and run of rows, for ``hits`` (runs, pictures): who is right where."""
    runs, pictures = hits.shape
    truth = np.tile(np.arange(pictures) % 2, runs)
    predicted = np.where(hits.reshape(-1), truth, 1 - truth)
    return truth, np.eye(2)[predicted], np.tile(np.arange(pictures), runs), np.repeat(np.arange(runs), pictures)


def test_interval_of_several_runs_covers_the_variation_between_runs():
    random = np.random.default_rng(0)
    steady = np.tile(random.random(200) < 0.8, (4, 1))
    moody = steady.copy()
    moody[0, :], moody[1:, :30] = True, False
    truth, a, groups, runs = several(steady)
    _, b, _, _ = several(moody)
    narrow = compare(truth, a, b, [0, 1], measures=["accuracy"], groups=groups)[0]
    wide = compare(truth, a, b, [0, 1], measures=["accuracy"], groups=groups, runs=runs)[0]
    assert wide.difference == narrow.difference
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert wide.low < 0 < wide.high
    assert wide.verdict == "no measurable difference"


def test_comparison_with_one_run_per_head_equals_the_comparison_without_runs():
    random = np.random.default_rng(1)
    truth, a, _, runs = several(random.random((1, 80)) < 0.7)
    _, b, _, _ = several(random.random((1, 80)) < 0.9)
    assert compare(truth, a, b, [0, 1], runs=runs) == compare(truth, a, b, [0, 1])


def test_five_runs_with_equal_predictions_do_not_narrow_the_interval():
    random = np.random.default_rng(2)
    once, other = random.random((1, 60)) < 0.7, random.random((1, 60)) < 0.75
    truth, a, groups, runs = several(once)
    _, b, _, _ = several(other)
    single = compare(truth, a, b, [0, 1], measures=["accuracy"])[0]
    truth, a, groups, runs = several(np.tile(once, (5, 1)))
    _, b, _, _ = several(np.tile(other, (5, 1)))
    five = compare(truth, a, b, [0, 1], measures=["accuracy"], groups=groups, runs=runs)[0]
    assert five.high - five.low == pytest.approx(single.high - single.low, rel=0.15)


def test_verdict_is_better_or_worse_only_if_the_interval_excludes_0():
    assert Difference("accuracy", 0.5, 0.6, 0.1, 0.02, 0.2, 0.01).verdict == "better"
    assert Difference("macro_f1", 0.5, 0.4, -0.1, -0.2, -0.02, 0.01).verdict == "worse"
    assert Difference("log_loss", 0.5, 0.4, -0.1, -0.2, -0.02, 0.01).verdict == "better"
    assert Difference("accuracy", 0.5, 0.6, 0.1, 0.0, 0.2, 0.06).verdict == "no measurable difference"
    assert Difference("accuracy", 0.5, 0.6, 0.1, -0.02, 0.2, 0.1).points() == "+10.0 points [-2.0, +20.0]"
