from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import onnx
import onnxruntime
import pytest

from featstore.errors import DamagedError, UsageError
from featstore.heads import HEADS, skops_bytes, train_head
from featstore.heads.export import export_onnx, to_onnx
from featstore.heads.headfile import TrainedHead
from featstore.heads.sklearn_export import export_sklearn, to_sklearn
from featstore.heads.wrapped import EstimatorModel
from tests.heads.made_up import blobs

every_kind = pytest.mark.parametrize("kind", list(HEADS))


def trained(kind, classes):
    X, y = blobs(300, 8, classes, seed=1)
    options = {"Cs": (1.0,), "gammas": (1.0,)} if kind == "rbf-svm" else {}
    options |= {"folds": 3} if HEADS[kind].folded else {"hidden": [16, 8]}
    return train_head(X, y, kind=kind, fingerprint="f1", **options), blobs(500, 8, classes, seed=2)[0]


@every_kind
@pytest.mark.parametrize("classes", [2, 4])
def test_predictions_of_the_onnx_export_equal_those_of_the_head(kind, classes, tmp_path):
    head, X = trained(kind, classes)
    export_onnx(head, tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx", providers=["CPUExecutionProvider"])
    label, probabilities = session.run(["label", "probabilities"], {"features": X})
    np.testing.assert_array_equal(label.astype(str), head.predict(X))
    np.testing.assert_allclose(probabilities, head.predict_proba(X), atol=1e-4)
    properties = session.get_modelmeta().custom_metadata_map
    assert properties == {"featstore head": kind, "fingerprint": "f1"}


PLAIN = ["logreg", "linear-svm", "rbf-svm", "mlp"]


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("classes", [2, 4])
def test_predictions_of_the_sklearn_export_equal_those_of_the_head(kind, classes):
    head, X = trained(kind, classes)
    estimator = to_sklearn(head)
    np.testing.assert_array_equal(estimator.predict(X), head.predict(X))
    np.testing.assert_allclose(estimator.predict_proba(X), head.predict_proba(X), atol=1e-4)


@pytest.mark.slow
def test_exported_joblib_heads_predict_without_importing_featstore(tmp_path):
    heads = [trained(kind, 4)[0] for kind in PLAIN]
    X = trained("logreg", 4)[1]
    np.save(tmp_path / "x.npy", X)
    for number, head in enumerate(heads):
        export_sklearn(head, tmp_path / f"{number}.joblib")
    code = (
        "import sys, joblib, numpy; x = numpy.load('x.npy');"
        "[print(*joblib.load(f'{i}.joblib').predict(x), sep='|') for i in range(4)]; sys.exit('featstore' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    for head, line in zip(heads, out.stdout.splitlines(), strict=True):
        np.testing.assert_array_equal(line.split("|"), head.predict(X))


def test_sklearn_export_rejects_nearest_neighbours():
    head, _ = trained("knn", 2)
    with pytest.raises(UsageError, match="export it to ONNX"):
        to_sklearn(head)


def test_error_for_missing_onnx_names_the_remedy(monkeypatch):
    head, _ = trained("logreg", 2)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"featstore\[onnx\]"):
        to_onnx(head)


def test_exported_onnx_model_passes_the_full_checker():
    head, _ = trained("knn", 3)
    onnx.checker.check_model(onnx.load_from_string(to_onnx(head)), full_check=True)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("sklearn.discriminant_analysis:LinearDiscriminantAnalysis", True),
        ("sklearn.neural_network:MLPClassifier", False),
    ],
)
def test_sklearn_export_of_a_scikit_learn_head_is_its_classifier(kind, names, tmp_path):
    pytest.importorskip("skops")
    X, y = blobs(90, 4, 3, seed=1)
    options = {} if names else {"hidden_layer_sizes": [4], "max_iter": 3000, "solver": "lbfgs", "alpha": 10.0}
    head = train_head(X, y, kind=kind, folds=2, **options)
    notes = export_sklearn(head, tmp_path / "a.joblib")
    estimator = joblib.load(tmp_path / "a.joblib")
    labels = head.predict(X).tolist()
    expected = labels if names else [head.classes.index(label) for label in labels]
    assert estimator.predict(X).tolist() == expected
    assert ("it predicts the number of the class: 0 = class 0, 1 = class 1, 2 = class 2" in notes) == (not names)
    with pytest.raises(UsageError, match="export it with --sklearn"):
        to_onnx(head)


def test_export_refuses_a_classifier_whose_predictions_fail(tmp_path: Path) -> None:
    pytest.importorskip("skops")
    from sklearn.naive_bayes import GaussianNB

    fitted = GaussianNB().fit(np.arange(16.0).reshape(8, 2), [0, 1] * 4)
    fitted.var_ = np.zeros((0, 2))
    payload = np.frombuffer(skops_bytes.pack(fitted), np.uint8)
    head = TrainedHead("sklearn.naive_bayes:GaussianNB", ["a", "b"], EstimatorModel(payload, "predict_proba", 2, 2))
    with pytest.raises(DamagedError, match="the classifier of the head failed on made-up features"):
        export_sklearn(head, tmp_path / "x.joblib")
    assert not list(tmp_path.iterdir())
