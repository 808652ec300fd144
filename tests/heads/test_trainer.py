from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.heads import HEADS, evaluate, train_head
from featstore.splits import held_out
from tests.heads.made_up import Streamed, blobs


@pytest.mark.parametrize("kind", list(HEADS))
def test_train_head_generalises_to_held_out_rows(kind):
    X, y = blobs(600, 16, 3, seed=4)
    train, test = held_out(y, fraction=0.25, seed=0)
    folds = {"folds": 3} if HEADS[kind].folded else {}
    head = train_head(X[train], y[train], kind=kind, seed=7, **folds)
    report = evaluate(y[test], head.predict_proba(X[test]), head.classes, replicates=50)
    assert report.accuracy.low > 0.75
    assert head.meta["seed"] == 7
    assert head.meta["rows"] == len(train)
    assert not folds or head.meta["cross_validation"]["folds"] == 3
    assert sum(head.meta["class_counts"].values()) == len(train)
    assert json.loads(json.dumps(head.meta, allow_nan=False)) == head.meta


def test_trained_head_lists_classes_in_natural_order():
    X, _ = blobs(90, 4, 3)
    head = train_head(X, np.array([1, 10, 2] * 30), C=1.0)
    assert head.classes == ["1", "2", "10"]
    assert set(head.predict(X)) <= {"1", "10", "2"}


def test_numeric_labels_and_class_weights_are_accepted():
    X, _ = blobs(90, 4, 3)
    y = np.arange(90) % 3
    head = train_head(X, y, C=1.0, class_weight={0: 1, 1: 2.0, 2: 0.5})
    assert head.meta["parameters"]["class_weight"] == {"0": 1, "1": 2.0, "2": 0.5}
    assert evaluate(y, head.predict_proba(X), head.classes, replicates=2).rows == 90


def test_train_head_gives_the_same_head_from_blocks_and_arrays():
    X, y = blobs(300, 6, 2)
    a, b = train_head(X, y), train_head(Streamed(X), y)
    assert a.meta["chosen"] == b.meta["chosen"]
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 6, "only one class"),
        (["a"] * 5 + ["b"], "one picture"),
        (["a", "b"] * 2, "one label a row"),
        (["a", "a", "b", "b", None, "b"], "1 row.s. have no label"),
        (["a", "a", "b", "b", float("nan"), "b"], "1 row.s. have no label"),
    ],
)
def test_train_rejects_unusable_labels_with_a_one_line_error(kind, labels, message):
    with pytest.raises(UsageError, match=message) as caught:
        train_head(np.eye(6, dtype=np.float32), labels, kind=kind)
    assert "\n" not in str(caught.value)


def test_train_rejects_a_class_whose_pictures_form_one_group():
    X, y = blobs(20, 4, 2)
    groups = np.where(y == "class 1", 0, np.arange(20) + 1)
    with pytest.raises(UsageError, match="class 1"):
        train_head(X, y, groups=groups)


def test_train_head_rejects_unknown_heads_and_options_of_other_heads():
    X, y = blobs(20, 4, 2)
    with pytest.raises(UsageError, match="choose one of logreg, linear-svm, rbf-svm, knn"):
        train_head(X, y, kind="forest")
    with pytest.raises(UsageError, match="knn has neither C"):
        train_head(X, y, kind="knn", C=1.0)


def test_importing_featstore_heads_imports_no_scikit_learn():
    code = (
        "import sys, featstore.heads, featstore.heads.headfile; "
        "print([m for m in ('sklearn', 'torch', 'pandas', 'faiss') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
