from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import beta
from sklearn import metrics

from featstore.errors import DataError
from featstore.heads.evaluation.measures import NAMES, Measurer, draws, grouped_draws
from featstore.heads.evaluation.report import codes_of, evaluate, worst_errors


def made(rows=400, classes=3, seed=0, ties=False):
    random = np.random.default_rng(seed)
    codes = random.integers(0, classes, rows)
    logits = random.standard_normal((rows, classes)) + 1.2 * np.eye(classes)[codes]
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if ties:
        probabilities = np.round(probabilities, 1) + 1e-6
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return codes, probabilities


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_evaluation_measures_equal_those_of_scikit_learn(classes, ties, weighted):
    codes, probabilities = made(classes=classes, ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, len(codes)).astype(float) if weighted else np.ones(len(codes))
    found = Measurer(codes, probabilities).measure(weights)
    predicted = probabilities.argmax(axis=1)
    w = {"sample_weight": weights}
    onehot = np.eye(classes)[codes]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(codes, predicted, **w))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(codes, predicted, **w))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(codes, predicted, average="macro", **w))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(codes, probabilities, **w))
    aucs = [metrics.roc_auc_score(onehot[:, k], probabilities[:, k], **w) for k in range(classes)]
    assert found["roc_auc"] == pytest.approx(np.mean(aucs))
    areas = [metrics.average_precision_score(onehot[:, k], probabilities[:, k], **w) for k in range(classes)]
    assert found["average_precision"] == pytest.approx(np.mean(areas))


def test_measures_of_many_weightings_equal_those_of_each_weighting_alone():
    codes, probabilities = made(classes=4, ties=True)
    weights = np.random.default_rng(2).standard_exponential((5, len(codes)))
    weights[1, codes == 2] = 0
    measurer = Measurer(codes, probabilities)
    found = measurer.measure_each(weights)
    for row, alone in zip(found, weights, strict=True):
        present = [k for k in range(4) if alone[codes == k].any()]
        one = {"sample_weight": alone}
        areas = [metrics.roc_auc_score(codes == k, probabilities[:, k], **one) for k in present]
        expected = {
            "accuracy": metrics.accuracy_score(codes, probabilities.argmax(axis=1), **one),
            "roc_auc": np.mean(areas),
            "balanced_accuracy": np.mean(
                [np.average(measurer.hits[codes == k], weights=alone[codes == k]) for k in present]
            ),
        }
        for name, value in expected.items():
            assert row[NAMES.index(name)] == pytest.approx(value)


@pytest.mark.parametrize("rows", [3, 40_000])
def test_bootstrap_weights_are_the_same_for_every_block_size(rows):
    random = np.random.default_rng(7)
    expected = np.array([random.standard_exponential(rows + 2) for _ in range(5)])
    blocks = list(draws(rows, 5, 7))
    first, second = (np.concatenate(halves) for halves in zip(*blocks, strict=True))
    np.testing.assert_array_equal(first[:, : rows + 1], expected[:, : rows + 1])
    np.testing.assert_array_equal(second[:, -1], expected[:, -1])
    assert not first[:, -1].any()
    assert not second[:, -2].any()


def test_large_groups_that_are_all_right_have_intervals_with_width():
    codes, unit = np.tile([0, 1], 1_000), np.repeat(np.arange(20), 100)
    certain = np.eye(2)[codes]
    grouped = evaluate(codes, certain, [0, 1], groups=unit).estimates
    assert 0.7 < grouped["balanced_accuracy"].low < 0.95
    single = evaluate(codes[:20], certain[:20], [0, 1]).estimates
    assert grouped["macro_f1"].low == pytest.approx(single["macro_f1"].low, abs=0.06)


def test_groups_do_not_enlarge_the_blocks_of_bootstrap_weights():
    unit = np.repeat(np.arange(20), 10_000)
    first, second = next(grouped_draws(unit, 200, 0))
    assert first.shape == second.shape == (1, 200_002)
    assert len(np.unique(first[0, :-2])) == 20
    assert first[0, -1] == second[0, -2] == 0


def test_calibration_error_equals_its_definition_over_bins():
    codes = np.array([0, 0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    expected = 4 / 5 * abs(0.75 - 0.9) + 1 / 5 * abs(1 - 0.6)
    assert Measurer(codes, probabilities).measure(np.ones(5))["calibration_error"] == pytest.approx(expected)


def test_copies_of_rows_do_not_make_the_intervals_narrower():
    codes, probabilities = made(60)
    rows = np.arange(60)
    once = evaluate(codes, probabilities, [0, 1, 2], groups=rows)
    assert once.to_dict() == evaluate(codes, probabilities, [0, 1, 2]).to_dict()
    twice = evaluate(np.tile(codes, 2), np.tile(probabilities, (2, 1)), [0, 1, 2], groups=np.tile(rows[::-1], 2)[::-1])
    assert (twice.accuracy.low, twice.accuracy.high) == pytest.approx((once.accuracy.low, once.accuracy.high))
    for name, one in once.estimates.items():
        two = twice.estimates[name]
        assert two.high - two.low == pytest.approx(one.high - one.low, rel=0.15), name
    assert twice.to_dict()["intervals"]["observations"] == 60
    assert twice.text().startswith("120 rows (60 independent), 3 classes")
    with pytest.raises(DataError, match="groups of 60 rows, where 120 are needed"):
        evaluate(np.tile(codes, 2), np.tile(probabilities, (2, 1)), [0, 1, 2], groups=rows)


def test_evaluation_measures_lie_in_their_intervals_and_convert_to_json():
    codes, probabilities = made()
    classes = ["ant", "bee", "wasp"]
    report = evaluate(np.array(classes)[codes], probabilities, classes, replicates=100)
    for estimate in report.estimates.values():
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.high - estimate.low < 0.2
    again = evaluate(np.array(classes)[codes], probabilities, classes, replicates=100)
    assert report.to_dict() == again.to_dict()
    value = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    confusion = metrics.confusion_matrix(codes, probabilities.argmax(axis=1))
    assert value["confusion"] == confusion.tolist()
    expected = metrics.precision_recall_fscore_support(codes, probabilities.argmax(axis=1))
    np.testing.assert_allclose(report.table.precision, expected[0])
    np.testing.assert_allclose(report.table.recall, expected[1])
    np.testing.assert_allclose(report.table.f1, expected[2])
    assert "accuracy" in report.text()
    assert sum(b.rows for b in report.calibration) == len(codes)


def test_report_names_missing_classes_and_excludes_them_from_averages():
    codes, probabilities = made(classes=3)
    here = codes != 2
    report = evaluate(codes[here], probabilities[here], [0, 1, 2], replicates=50)
    assert report.missing == ["2"]
    assert "no rows of 2" in report.text()
    recalls = report.table.recall[:2]
    assert report.estimates["balanced_accuracy"].value == pytest.approx(recalls.mean())
    assert json.dumps(report.to_dict(), allow_nan=False)


def test_bootstrap_interval_has_its_nominal_coverage():
    inside = 0
    large_codes, large = made(rows=50_000, classes=2, seed=9)
    truth = Measurer(large_codes, large).measure(np.ones(len(large_codes)))["roc_auc"]
    for seed in range(40):
        codes, probabilities = made(rows=150, classes=2, seed=seed + 100)
        estimate = evaluate(codes, probabilities, [0, 1], replicates=120).estimates["roc_auc"]
        inside += estimate.low <= truth <= estimate.high
    assert 33 <= inside <= 40


@pytest.mark.parametrize(("right", "rows"), [(40, 40), (37, 40), (0, 40)])
def test_bootstrap_interval_of_a_proportion_is_close_to_clopper_pearson(right, rows):
    """Only one of the two classes has rows, so that balanced accuracy is the share of right predictions, a simple
    proportion."""
    probabilities = np.eye(2)[np.r_[np.zeros(right, int), np.ones(rows - right, int)]]
    found = evaluate([0] * rows, probabilities, [0, 1], replicates=1000).estimates["balanced_accuracy"]
    low = beta.ppf(0.025, right, rows - right + 1) if right else 0
    high = beta.ppf(0.975, right + 1, rows - right) if right < rows else 1
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.012)


def test_accuracy_intervals_have_width_if_all_predictions_are_right():
    codes = np.repeat([0, 1], 20)
    estimates = evaluate(codes, np.eye(2)[codes], [0, 1]).estimates
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "average_precision"):
        assert estimates[name].value == estimates[name].high == 1
        assert 0.8 < estimates[name].low < 0.93, name
    assert estimates["calibration_error"].value == 0
    assert 0.05 < estimates["calibration_error"].high < 0.15


@pytest.mark.parametrize(("sizes", "recall"), [((20, 20), 0.97), ((30, 6), 0.9), ((5,) * 8, 0.95)])
def test_interval_of_balanced_accuracy_covers_the_true_value(sizes, recall):
    random = np.random.default_rng(3)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    covered = 0
    for seed in range(40):
        predicted = np.where(random.random(len(codes)) < recall, codes, (codes + 1) % len(sizes))
        probabilities = np.eye(len(sizes))[predicted]
        one = evaluate(codes, probabilities, range(len(sizes)), replicates=60, seed=seed).estimates["balanced_accuracy"]
        covered += one.low <= recall <= one.high
    assert covered >= 36


@pytest.mark.parametrize(
    ("y", "probabilities", "message"),
    [
        ([], np.zeros((0, 2)), "no rows"),
        (["a", "zebra"], np.full((2, 2), 0.5), r"1 label\(s\) that the head does not know: zebra"),
        (["a"], np.full((1, 3), 0.3), "shape"),
        (["a"], np.array([[np.nan, 1.0]]), "finite"),
    ],
)
def test_evaluate_rejects_bad_input_with_a_one_line_error(y, probabilities, message):
    with pytest.raises(DataError, match=message):
        evaluate(y, probabilities, ["a", "b"])


def test_worst_errors_are_wrong_and_sorted_by_confidence():
    codes, probabilities = made(classes=3)
    rows = worst_errors(codes, probabilities, [0, 1, 2], 10)
    predicted = probabilities.argmax(axis=1)
    assert (predicted[rows] != codes[rows]).all()
    confidence = probabilities.max(axis=1)
    assert (np.diff(confidence[rows]) <= 0).all()
    assert confidence[rows[0]] == confidence[predicted != codes].max()


def test_class_numbers_are_positions_in_the_given_class_order():
    np.testing.assert_array_equal(codes_of(["b", "a"], ["b", "a"]), [0, 1])
