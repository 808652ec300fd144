"""Tests of heads that predict numbers: file, predictions, exports, report."""

from __future__ import annotations

import json
import re

import joblib
import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from featstore.errors import DamagedError, DataError, UsageError
from featstore.heads import load_head, save_head
from featstore.heads.evaluation.numbers_report import evaluate_numbers
from featstore.heads.export import to_onnx
from featstore.heads.headfile import NumbersHead
from featstore.heads.numbers import NumbersModel
from featstore.heads.sklearn_export import export_sklearn
from featstore.heads.task_trainer import train_numbers
from tests.heads.estimators.test_ridge import measured
from tests.heads.made_up import Streamed


@pytest.fixture(scope="module")
def head():
    X, y = measured()
    return train_numbers(X, y, folds=3)


def test_saved_ridge_head_predicts_the_same_numbers(head, tmp_path):
    X, y = measured(seed=0)
    save_head(tmp_path / "a.head", head)
    loaded = load_head(tmp_path / "a.head")
    assert isinstance(loaded, NumbersHead)
    assert (loaded.task, loaded.classes, loaded.kind) == ("numbers", [], "ridge")
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))
    assert r2_score(y, loaded.predict(X)) > 0.8
    blocks = list(loaded.predict_blocks(Streamed(X)))
    np.testing.assert_array_equal(np.concatenate([numbers for numbers, _ in blocks]), head.predict(X))
    assert loaded.predict(X[:0]).shape == (0,)
    assert set(loaded.meta["chosen"]) == {"alpha"}
    with pytest.raises(UsageError, match="which have no probabilities"):
        loaded.predict_proba(X)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coef": np.full((1, 12), np.inf)}, "NaN or infinity"),
        ({"coef": np.zeros((2, 12))}, "wrong shape"),
        ({"intercept": np.zeros(2)}, "has the shape"),
        ({"intercept": np.zeros(1, np.float32)}, "missing or of the wrong type"),
    ],
)
def test_ridge_head_file_with_inconsistent_arrays_is_reported_as_damaged(head, tmp_path, change, message):
    class Other(NumbersModel):
        def arrays(self):
            return {**super().arrays(), **change}

    save_head(tmp_path / "a.head", NumbersHead("ridge", [], Other(head.model.coef, head.model.intercept)))
    with pytest.raises(DamagedError, match=message):
        load_head(tmp_path / "a.head")


@pytest.mark.parametrize("classes", [["a"], ["a", "b"]])
def test_ridge_head_file_that_lists_classes_is_reported_as_damaged(head, tmp_path, classes):
    save_head(tmp_path / "a.head", NumbersHead("ridge", classes, head.model))
    with pytest.raises(DamagedError, match="its list of classes is damaged"):
        load_head(tmp_path / "a.head")


def test_onnx_and_sklearn_exports_of_a_ridge_head_give_the_same_numbers(head, tmp_path):
    X, _ = measured(seed=5)
    expected = head.predict(X)
    export_sklearn(head, tmp_path / "a.joblib")
    np.testing.assert_allclose(joblib.load(tmp_path / "a.joblib").predict(X), expected, atol=1e-3)
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    session = onnxruntime.InferenceSession(to_onnx(head), providers=["CPUExecutionProvider"])
    (numbers,) = session.run(["number"], {"features": X})
    np.testing.assert_allclose(numbers[:, 0], expected, rtol=1e-4, atol=1e-3)


def test_regression_measures_equal_those_of_scikit_learn_and_lie_in_their_intervals():
    random = np.random.default_rng(0)
    truth = random.standard_normal(200)
    predicted = truth + 0.5 * random.standard_normal(200)
    report = evaluate_numbers(truth, predicted, replicates=200)
    value = {name: one.value for name, one in report.estimates.items()}
    assert value["r2"] == pytest.approx(r2_score(truth, predicted))
    assert value["mae"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert value["rmse"] == pytest.approx(root_mean_squared_error(truth, predicted))
    assert all(one.low < one.value < one.high for one in report.estimates.values())
    assert report.estimates["r2"].low < 0.75 < report.estimates["r2"].high  # the expected R2 is 1 - 0.25
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "have the same number"),
        ([1.0], [1.0], "R2 needs two"),
        ([1.0, np.nan], [1.0, 2.0], "must be finite"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "do not match"),
    ],
)
def test_regression_report_refuses_rows_that_cannot_be_evaluated(truth, predicted, message):
    with pytest.raises(DataError, match=message):
        evaluate_numbers(truth, predicted)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"C": 1.0}, "ridge has no C; leave it out"), ({"alpha": -1.0}, "alpha must be positive")],
)
def test_invalid_ridge_head_options_are_refused_in_one_line(options, message):
    with pytest.raises((UsageError, DataError), match=re.escape(message)) as error:
        train_numbers(*measured(), **options)
    assert "\n" not in str(error.value)
