"""Heads, reports and messages list classes in natural order (2 before 10); estimators keep scikit-learn's order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from featstore import splits
from featstore.errors import DataError
from featstore.heads import LogisticHead, TrainedHead, evaluate, load_head, save_head, train_head
from featstore.pages.parts import confusion_matrix
from featstore.stages.train.earlier import _some

NAMES = [str(n) for n in range(1, 13)]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    codes = np.repeat(np.arange(12), 6)
    return (np.eye(12)[codes] * 4 + random.normal(0, 0.3, (72, 12))).astype(np.float32), np.array(NAMES)[codes]


@pytest.mark.parametrize("kind", ["logreg", "linear-svm", "rbf-svm", "knn", "mlp"])
def test_train_head_sorts_classes_in_natural_order(data, kind: str, tmp_path: Path):
    X, y = data
    options = {"knn": {"folds": 3}, "mlp": {}}
    head = train_head(X, y, kind=kind, **options.get(kind, {"folds": 3, "C": 1.0}))
    assert head.classes == NAMES
    assert list(head.meta["class_counts"]) == NAMES
    save_head(tmp_path / "h.head", head)
    back = load_head(tmp_path / "h.head")
    probabilities = back.predict_proba(X)
    assert (np.array(back.classes)[probabilities.argmax(axis=1)] == y).mean() > 0.95
    report = evaluate(y, probabilities, back.classes)
    lines = report.text().splitlines()
    assert [
        line.split()[0] for line in lines[lines.index(next(x for x in lines if "support" in x)) + 1 :][:12]
    ] == NAMES
    assert [row["class"] for row in report.to_dict()["classes"]] == NAMES
    assert confusion_matrix(back.classes, report.to_dict()["confusion"])["classes"] == NAMES


def test_error_messages_list_classes_in_natural_order():
    with pytest.raises(DataError, match="3 classes have only one picture, or only copies of one: 2, 9, 10;"):
        splits.held_out(["2", "10", "9", "1", "1", "1"], fraction=0.5, seed=0)
    assert _some({"10", "2", "9", "1"}) == "1, 2, 9, 10"


def test_estimators_sort_classes_as_numpy_does(data):
    X, y = data
    assert LogisticHead(C=1.0).fit(X, y).classes_.tolist() == sorted(NAMES)


def test_head_file_of_an_earlier_version_keeps_its_class_order(data, tmp_path: Path):
    X, y = data
    head = train_head(X, y, C=1.0)
    estimator = LogisticHead(C=1.0).fit(X, y)
    old = dataclasses.replace(head, classes=estimator.classes_.tolist(), model=estimator.model_)
    save_head(tmp_path / "h.head", old)
    back = load_head(tmp_path / "h.head")
    assert isinstance(back, TrainedHead)
    assert back.classes == sorted(NAMES)
    assert (np.array(back.classes)[back.predict_proba(X).argmax(axis=1)] == y).mean() > 0.95


def test_class_weights_are_assigned_by_class_name(data):
    X, y = data
    weights = {name: 1.0 + (name == "10") for name in NAMES}
    head = train_head(X, y, C=0.001, class_weight=weights)
    expected = LogisticHead(C=0.001, class_weight=weights).fit(X, y)
    order = [expected.classes_.tolist().index(name) for name in head.classes]
    assert np.allclose(head.predict_proba(X), expected.predict_proba(X)[:, order], atol=1e-3)
    assert head.meta["parameters"]["class_weight"] == weights
    with pytest.raises(DataError, match=r"'11 ', which is none of the classes; did you mean '11'"):
        train_head(X, y, C=1.0, class_weight={"11 ": 2.0})
