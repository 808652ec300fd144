"""Tests of heads that predict label sets: file, predictions, exports."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import joblib
import numpy as np
import pytest

from featstore.errors import DamagedError, UsageError
from featstore.heads import load_head, save_head
from featstore.heads.export import to_onnx
from featstore.heads.headfile import LabelSetsHead
from featstore.heads.label_sets import LabelSetsModel
from featstore.heads.network_sets import NetworkSetsModel
from featstore.heads.sklearn_export import export_sklearn
from featstore.heads.task_trainer import train_label_sets
from tests.heads.estimators.test_one_vs_rest import tagged
from tests.heads.made_up import Streamed

NAMES = ["1", "2", "10", "cat", "dog"]


def sets_of(indicator):
    return [{NAMES[column] for column in np.flatnonzero(row)} for row in indicator]


OPTIONS = {"logreg": {"C": 0.1, "folds": 3}, "mlp": {"hidden": 16, "epochs": 8}}


@pytest.fixture(scope="module", params=list(OPTIONS))
def head(request):
    X, indicator = tagged()
    meta = {"task": {"separator": "|"}}
    return train_label_sets(X, sets_of(indicator), kind=request.param, meta=meta, **OPTIONS[request.param])


def test_label_set_head_lists_and_counts_labels_in_natural_order(head):
    assert head.classes == NAMES
    assert head.meta["class_counts"] == dict(zip(NAMES, tagged()[1].sum(axis=0).tolist(), strict=True))
    assert (head.task, head.separator) == ("label sets", "|")
    assert head.kind in OPTIONS


def test_saved_label_set_head_predicts_the_same_sets_and_probabilities(head, tmp_path):
    X, _ = tagged(seed=5)
    save_head(tmp_path / "a.head", head)
    loaded = load_head(tmp_path / "a.head")
    assert isinstance(loaded, LabelSetsHead)
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
    found = loaded.predict(X)
    expected = [tuple(NAMES[at] for at in np.flatnonzero(row)) for row in head.predict_proba(X) >= head.thresholds]
    assert found.tolist() == expected
    blocks = list(loaded.predict_blocks(Streamed(X)))
    np.testing.assert_array_equal(np.concatenate([p for _, p in blocks]), head.predict_proba(X))
    assert loaded.decision_function(X).shape == (600, 5)
    assert loaded.predict(X[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (LabelSetsModel, {"thresholds": np.ones(5)}, "not below 1"),
        (LabelSetsModel, {"thresholds": np.zeros(5)}, "not positive"),
        (LabelSetsModel, {"thresholds": np.full(4, 0.5)}, "has the shape"),
        (LabelSetsModel, {"coef": np.full((5, 12), np.nan)}, "NaN or infinity"),
        (LabelSetsModel, {"coef": np.zeros((4, 12))}, "wrong shape"),
        (LabelSetsModel, {"intercept": np.zeros(5, np.float32)}, "missing or of the wrong type"),
        (NetworkSetsModel, {"thresholds": np.ones(5)}, "not below 1"),
        (NetworkSetsModel, {"thresholds": np.full(4, 0.5)}, "has the shape"),
        (NetworkSetsModel, {"weights_1": np.zeros((4, 16), np.float32)}, "wrong shape"),
        (NetworkSetsModel, {"weights_1": np.full((5, 16), 1e30, np.float32)}, "its weights are greater"),
        (NetworkSetsModel, {"biases_1": np.full(5, np.nan, np.float32)}, "NaN or infinity"),
    ],
)
def test_label_set_head_file_with_inconsistent_arrays_is_damaged(head, tmp_path, monkeypatch, kind, change, message):
    if not isinstance(head.model, kind):
        pytest.skip("a case of the other model")
    arrays = {**head.model.arrays(), **change}
    monkeypatch.setattr(kind, "arrays", lambda _: arrays)
    save_head(tmp_path / "a.head", LabelSetsHead("any", NAMES, head.model))
    with pytest.raises(DamagedError, match=message) as error:
        load_head(tmp_path / "a.head")
    assert "\n" not in str(error.value)


def test_onnx_export_of_a_label_set_head_gives_the_same_label_sets(head):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    session = onnxruntime.InferenceSession(to_onnx(head), providers=["CPUExecutionProvider"])
    X, _ = tagged(seed=5)
    chosen, probabilities = session.run(["chosen", "probabilities"], {"features": X})
    expected = head.predict_proba(X)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    clear = np.abs(expected - head.thresholds) > 1e-4
    np.testing.assert_array_equal(chosen[clear], (expected >= head.thresholds)[clear])
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == NAMES


def test_sklearn_export_of_a_label_set_head_gives_the_same_probabilities(head, tmp_path):
    X, _ = tagged(seed=5)
    notes = export_sklearn(head, tmp_path / "a.joblib")
    estimator = joblib.load(tmp_path / "a.joblib")
    expected = head.predict_proba(X)
    np.testing.assert_allclose(estimator.predict_proba(X), expected, atol=1e-5)
    np.testing.assert_array_equal(estimator.predict(X), estimator.predict_proba(X) > 0.5)
    assert f"10 {head.thresholds[2]:.4g}" in notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sets: [{"cat"} for _ in sets], "the training pictures have 1 label"),
        (
            lambda sets: [{"rare"} if not at else one for at, one in enumerate(sets)],
            "only one training picture has rare",
        ),
        (lambda sets: [one | {"all"} for one in sets], "all training pictures, or all but one, have all"),
    ],
)
def test_label_sets_that_cannot_be_learned_are_refused_in_one_line(change, message):
    X, indicator = tagged()
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        train_label_sets(X, change(sets_of(indicator)))
    assert "\n" not in str(error.value)


def test_label_set_of_a_row_does_not_depend_on_the_batch(head):
    X, _ = tagged(seed=5)
    # A threshold that equals a probability: only rounding decides whether the row has the label.
    alone = np.array([head.predict_proba(row[None])[0] for row in X[:40]])
    if not isinstance(head.model, NetworkSetsModel):
        pytest.skip("the linear model multiplies each row separately")
    edge = replace(head, model=replace(head.model, thresholds=alone[7]))
    single = [edge.predict(row[None])[0] for row in X[:40]]
    for rows in (X[:40], X, np.asfortranarray(X[:53])):
        assert edge.predict(rows)[:40].tolist() == single
    assert single[7] == tuple(NAMES)


def test_mlp_for_two_labels_has_an_output_for_each(tmp_path):
    X, indicator = tagged(labels=2)
    head = train_label_sets(X, sets_of(indicator), kind="mlp", hidden=8, epochs=15)
    save_head(tmp_path / "a.head", head)
    loaded = load_head(tmp_path / "a.head")
    assert loaded.decision_function(X).shape == (600, 2)
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mlp", "C": 1.0}, "mlp has no C"),
        ({"kind": "mlp", "folds": 3}, "mlp has no cross-validation"),
        ({"kind": "mlp", "output": "softmax"}, "label sets need output='sigmoid'"),
        ({"kind": "mlp", "balance": "sampler"}, "a label set is no class; use 'weights'"),
        ({"kind": "mlp", "class_weight": {"cat": 2.0}}, "class_weight of label sets must be 'balanced' or None"),
        ({"kind": "logreg", "class_weight": "balanced"}, "logreg has no class weights"),
        ({"kind": "knn"}, "label sets are learnt by the head logreg or mlp, not by knn"),
    ],
    ids=str,
)
def test_options_that_a_label_set_head_lacks_are_refused_in_one_line(options, message):
    X, indicator = tagged(rows=60)
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        train_label_sets(X, sets_of(indicator), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "message"), [(1, "only one training picture has"), (0, "or all but one, have")])
def test_label_of_one_picture_and_its_copies_is_refused(value, message):
    X, indicator = tagged(rows=60)
    indicator[:, 0] = 1 - value
    indicator[:3, 0] = value
    groups = np.maximum(np.arange(60), 2)
    with pytest.raises(UsageError, match=f"{message} {NAMES[0]}: "):
        train_label_sets(X, sets_of(indicator), groups=groups, C=0.1)
    groups[0] = 0
    assert train_label_sets(X, sets_of(indicator), groups=groups, C=0.1).classes == NAMES
