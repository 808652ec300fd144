"""Tests of the report on label sets, compared with scikit-learn's measures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score

from featstore.errors import DataError
from featstore.heads.evaluation.label_set_report import evaluate_label_sets

NAMES = ["a", "b", "c"]
CUTS = [0.3, 0.5, 0.7]


def made_up(rows=80, seed=0):
    random = np.random.default_rng(seed)
    truth = random.random((rows, 3)) < (0.5, 0.3, 0.1)
    # rounded, so that scores are tied
    return truth, np.round(np.clip(0.5 * truth + 0.7 * random.random((rows, 3)), 0, 1), 2)


def test_label_set_measures_equal_those_of_scikit_learn():
    truth, probabilities = made_up()
    report = evaluate_label_sets(truth, probabilities, NAMES, CUTS, replicates=50)
    predicted = probabilities >= CUTS
    value = {name: one.value for name, one in report.estimates.items()}
    assert value["mean_average_precision"] == pytest.approx(
        average_precision_score(truth, probabilities, average="macro")
    )
    assert value["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert value["micro_f1"] == pytest.approx(f1_score(truth, predicted, average="micro"))
    assert value["exact_match"] == pytest.approx((truth == predicted).all(axis=1).mean())
    np.testing.assert_allclose(report.average_precision, average_precision_score(truth, probabilities, average=None))
    np.testing.assert_allclose(report.precision, precision_score(truth, predicted, average=None))
    for one in report.estimates.values():
        assert one.low <= one.value <= one.high
        assert one.low < one.high


def test_label_without_held_out_rows_is_excluded_from_averages():
    truth, probabilities = made_up()
    truth[:, 2] = False
    report = evaluate_label_sets(truth, probabilities, NAMES, CUTS, replicates=50)
    expected = average_precision_score(truth[:, :2], probabilities[:, :2], average="macro")
    assert report.estimates["mean_average_precision"].value == pytest.approx(expected)
    assert report.missing == ["c"]
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["labels"][2]["average_precision"] is None
    assert "no rows of c" in report.text()


def test_label_set_report_intervals_have_width_if_all_predictions_are_right():
    truth = np.eye(3, dtype=bool)[np.arange(30) % 3]
    report = evaluate_label_sets(truth, truth.astype(float), NAMES, [0.5] * 3, replicates=200)
    one = report.estimates["exact_match"]
    assert one.value == one.high == 1
    assert 0.8 < one.low < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_most_label_set_report_intervals_contain_the_true_value(seed):
    exact = {
        name: one.value
        for name, one in evaluate_label_sets(*made_up(20000, 9), NAMES, CUTS, replicates=2).estimates.items()
    }
    inside = [
        one.low <= exact[name] <= one.high
        for number in range(6)
        for name, one in evaluate_label_sets(
            *made_up(200, 10 * seed + number), NAMES, CUTS, replicates=200
        ).estimates.items()
    ]
    assert np.mean(inside) >= 0.75


def test_label_set_report_refuses_rows_without_labels_and_different_shapes():
    truth, probabilities = made_up()
    for wrong in (truth[:-1], truth[:0], truth & False):
        with pytest.raises(DataError):
            evaluate_label_sets(
                wrong, probabilities[: len(wrong) or 0] if len(wrong) != 79 else probabilities, NAMES, CUTS
            )
    with pytest.raises(DataError, match="finite"):
        evaluate_label_sets(truth, np.full(truth.shape, np.nan), NAMES, CUTS)
