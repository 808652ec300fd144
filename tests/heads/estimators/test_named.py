"""Heads whose classifier is a class of scikit-learn or another package: training, prediction, and refused classes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from featstore.errors import DataError, UsageError
from featstore.heads import load_head, save_head, train_head
from featstore.heads.estimators.named import is_named
from tests.heads.made_up import Streamed, blobs

pytest.importorskip("skops")

OUTPUTS = {
    "sklearn.discriminant_analysis:LinearDiscriminantAnalysis": "predict_proba",
    "sklearn.tree:DecisionTreeClassifier": "predict_proba",
    "sklearn.svm:LinearSVC": "decision_function",
    "sklearn.neighbors:KNeighborsClassifier": "predict_proba",
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learn_head_can_be_trained_calibrated_saved_and_loaded(kind, classes, tmp_path):
    X, y = blobs(210, 6, classes, apart=4, seed=1)
    more, truth = X[120:], y[120:]
    head = train_head(X[:120], y[:120], kind=kind, folds=3, fingerprint="f1")
    save_head(tmp_path / "a.head", head)
    loaded = load_head(tmp_path / "a.head", trust=head.model.trust)
    np.testing.assert_array_equal(loaded.predict_proba(more), head.predict_proba(more))
    assert (loaded.predict(more) == truth).mean() > 0.7
    np.testing.assert_allclose(head.predict_proba(more).sum(axis=1), 1)
    assert (head.kind, head.model.output, head.dimension) == (kind, OUTPUTS[kind], 6)
    assert len(head.meta["cross_validation"]["mean_accuracy"]) == 1
    assert head.predict(np.zeros((0, 6), np.float32)).shape == (0,)


def test_scikit_learn_classifier_learns_the_same_from_blocks_and_arrays():
    X, y = blobs(120, 6, 3, seed=1)
    kind = "sklearn.discriminant_analysis:LinearDiscriminantAnalysis"
    one, other = (train_head(given, y, kind=kind, folds=3) for given in (X, Streamed(X)))
    assert one.model.payload.tobytes() == other.model.payload.tobytes()


def test_scikit_learn_classifier_gets_the_given_parameters_class_weights_and_seed():
    X, y = blobs(60, 6, 3, seed=1)
    kind = "sklearn.tree:DecisionTreeClassifier"
    head = train_head(X, y, kind=kind, folds=2, seed=7, max_depth=1, class_weight={"class 1": 50.0})
    given = head.meta["parameters"]
    assert (given["max_depth"], given["random_state"], given["class_weight"]) == (1, 7, {"class 1": 50.0})
    assert (head.predict(X) == "class 1").mean() > 0.5


def test_scikit_learn_parameters_may_have_the_names_of_featstore_options():
    X, y = blobs(60, 6, 3, seed=1)
    head = train_head(X, y, kind="sklearn.linear_model:RidgeClassifierCV", folds=2, cv=3, alphas=[1.0, 10.0])
    assert (head.meta["parameters"]["cv"], head.meta["cross_validation"]["folds"]) == (3, 2)
    head = train_head(X, y, kind="sklearn.tree:DecisionTreeClassifier", folds=2, random_state=5)
    assert head.meta["parameters"]["random_state"] == 5


def test_pairwise_decision_values_of_svc_are_not_used():
    # With "ovo" (one against one), each of the three columns belongs to a pair of classes, not to a class.
    X, y = blobs(90, 6, 3, apart=3, seed=1)
    head = train_head(X, y, kind="sklearn.svm:SVC", folds=2, decision_function_shape="ovo")
    assert head.model.output == "predict"
    assert (head.predict(X) == y).mean() > 0.9


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("sklearn.svm:SVX", {}, "no SVX; did you mean 'SVR' or 'SVC'"),
        ("no_such_package.heads:A", {}, "there is no module no_such_package; install"),
        ("json:dumps", {}, "is a function, not a class"),
        ("json:JSONDecoder", {}, "is no scikit-learn class"),
        ("sklearn.decomposition:PCA", {}, "is no classifier"),
        ("sklearn.linear_model:Ridge", {}, "is no classifier"),
        ("sklearn.svm:SVC", {"kernl": "rbf"}, "no parameter 'kernl'; did you mean 'kernel'"),
        ("sklearn.svm:SVC", {"C": -1.0}, "fitting it failed: .*must be a float.*--set"),
        ("sklearn.ensemble:VotingClassifier", {}, "missing 1 required positional argument"),
        ("sklearn.svm", {}, "there is no head 'sklearn.svm'; .*package.module:Class"),
        ("svm", {}, r"as package\.module:Class; did you mean 'rbf-svm'\?$"),
    ],
)
def test_python_classes_that_are_no_usable_classifier_are_refused_in_one_line(kind, options, message):
    X, y = blobs(30, 4, 2, seed=1)
    with pytest.raises(UsageError, match=message) as caught:
        train_head(X, y, kind=kind, folds=2, **options)
    assert "\n" not in str(caught.value)


def test_scikit_learn_classifier_rejects_nan_and_rows_over_the_memory_limit():
    X, y = blobs(30, 4, 2, seed=1)
    with pytest.raises(DataError, match="needs all training vectors in memory.*memory_limit=480"):
        train_head(X, y, kind="sklearn.svm:SVC", folds=2, memory_limit=479)
    X[3, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        train_head(X, y, kind="sklearn.svm:SVC", folds=2)


def test_error_raised_inside_a_classifier_is_reported_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "raising_heads.py").write_text(
        "from sklearn.base import BaseEstimator, ClassifierMixin\n"
        "class Raises(ClassifierMixin, BaseEstimator):\n"
        "    def fit(self, X, y):\n"
        "        raise RuntimeError('first\\nsecond')\n"
        "    def predict(self, X):\n"
        "        return X\n"
        "class Blind(Raises):\n"
        "    def fit(self, X, y):\n"
        "        return self\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    X, y = blobs(30, 4, 2, seed=1)
    with pytest.raises(UsageError, match="fitting it failed: RuntimeError: first second"):
        train_head(X, y, kind="raising_heads:Raises", folds=2)
    with pytest.raises(UsageError, match="has no classes_"):
        train_head(X, y, kind="raising_heads:Blind", folds=2)
    sys.modules.pop("raising_heads")


@pytest.mark.parametrize("kind", ["logreg", "a:", ":A", "a b:C", "a.b:c d", "a/b:C", "..:A", "a::B", "a:b.C"])
def test_function_is_named_accepts_only_head_names_of_the_form_module_colon_class(kind):
    assert not is_named(kind)
