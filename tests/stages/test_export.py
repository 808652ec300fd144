"""featstore.export: the formats of stores and heads, default paths, and refused requests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import joblib
import numpy as np
import onnxruntime
import pytest
from PIL import Image
from pyarrow import parquet

import featstore
from featstore.errors import FeatstoreError, UsageError
from featstore.heads import load_head, save_head
from featstore.heads.export import to_onnx
from featstore.stages.export import export
from featstore.stages.index import index
from featstore.stages.predict import predict
from featstore.stages.train import train
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    return make_store(write_coloured(place / "pictures", names("train", 6)), place / "s", unit_rows=5)


def test_parquet_export_is_written_next_to_the_store(store):
    seen = []
    made = export(store, progress=seen.append)
    assert made.out == f"{store}.parquet"
    assert ([one.done for one in seen], seen[0].total) == ([5, 10, 12], 12)
    opened = featstore.FeatureStore.open(store)
    table = parquet.read_table(made.out)
    assert table["label"].to_pylist() == opened.labels.tolist()
    assert np.stack(table["vector"].to_numpy()).tobytes() == opened.features().tobytes()


def test_npy_export_is_written_to_the_given_folder(store, tmp_path):
    made = export(store, to="npy", out=tmp_path / "v")
    assert (made.files, made.rows, made.dimension) == (["vectors.npy", "rows.parquet"], 12, 8)
    assert np.load(tmp_path / "v/vectors.npy").shape == (12, 8)


def test_export_refuses_invalid_requests_with_a_one_line_error(store, tmp_path):
    with pytest.raises(UsageError, match="choose one of parquet, npy, csv; did you mean 'parquet'"):
        export(store, to="parqet")
    with pytest.raises(UsageError, match="does not exist"):
        export(tmp_path / "nothing")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no store, head or index"):
        export(tmp_path / "note.txt")
    built = index(store, out=tmp_path / "i.faiss")
    with pytest.raises(UsageError, match="plain FAISS file already"):
        export(built.path)


@pytest.fixture(scope="module", params=["float32", "float16"])
def head(request, tmp_path_factory):
    """Return the path of a head trained on features of the tiny backbone, and the folder of its pictures."""
    place = tmp_path_factory.mktemp("head")
    pictures = write_coloured(place / "pictures", names("train", 8), size=(40, 31))
    store = make_store(pictures, place / "s", dtype=request.param)
    return train(store, out=place / "h", C=1.0).path, pictures


def test_head_is_exported_as_one_onnx_model_that_takes_decoded_pixels(head, tmp_path):
    path, pictures = head
    made = export(path, to="onnx", out=tmp_path / "m.onnx", backbone=tiny_backbone())
    assert made.greatest_difference < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.shape, one.type) for one in session.get_inputs()] == [
        ("pixels", ["height", "width", 3], "tensor(uint8)")
    ]
    assert json.loads(session.get_modelmeta().custom_metadata_map["identity"])["backbone"] == "tiny"
    files = sorted(pictures.rglob("*.png"))
    expected = list(predict(path, files, backbone=tiny_backbone(), engine="torch"))
    for file, one in zip(files, expected, strict=True):
        pixels = np.array(Image.open(file).convert("RGB"))
        label, probabilities = session.run(["label", "probabilities"], {"pixels": pixels})
        assert label[0] == one.label
        np.testing.assert_allclose(probabilities[0], one.probabilities, atol=1e-4)


def test_export_of_a_head_overwrites_only_an_earlier_export(store, head, tmp_path):
    path = Path(head[0])
    for name, data in (("picture.png", b"mine"), ("a.onnx", path.read_bytes())):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match="exists and is no export of a head"):
            export(path, features_only=True, out=tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    with pytest.raises(UsageError, match="exists and is no export of a head"):
        export(path, to="sklearn", out=path)
    load_head(path)
    for _ in range(2):
        export(path, features_only=True, out=tmp_path / "b.onnx")
    with pytest.raises(UsageError, match="lies in the store"):
        export(store, out=store / "inside")
    assert not (store / "inside").exists()


def test_export_with_option_features_only_makes_an_onnx_model_that_takes_features(head, tmp_path):
    path, _ = head
    made = export(path, to="onnx", out=tmp_path / "m.onnx", features_only=True)
    assert made.inputs == "features (n, 8) float32, of tiny"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    X = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    np.testing.assert_allclose(
        session.run(["probabilities"], {"features": X})[0], load_head(path).predict_proba(X), atol=1e-5
    )


def test_head_is_exported_as_a_scikit_learn_estimator(head, tmp_path):
    path, _ = head
    made = export(path, to="sklearn", out=tmp_path / "m.joblib")
    assert "pickle" in made.notes[0]
    X = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    estimator = joblib.load(tmp_path / "m.joblib")
    np.testing.assert_allclose(estimator.predict_proba(X), load_head(path).predict_proba(X), atol=1e-6)


def test_exported_model_with_wrong_probabilities_is_deleted(head, tmp_path, monkeypatch):
    path, _ = head
    monkeypatch.setattr("featstore.stages.export.head.to_onnx", lambda head: to_onnx(swapped(head)))
    with pytest.raises(FeatstoreError, match="it was not kept"):
        export(path, to="onnx", out=tmp_path / "m.onnx", backbone=tiny_backbone())
    assert list(tmp_path.iterdir()) == []


def swapped(head):
    model = head.model
    return dataclasses.replace(head, model=dataclasses.replace(model, coef=-model.coef))


def test_names_with_newlines_in_a_forged_head_are_printed_on_one_line(head, tmp_path):
    forged = dataclasses.replace(load_head(Path(head[0])), kind="logreg\nfeatstore: whole")
    forged.identity["decoder"] = "pillow-torch\nfeatstore: whole"
    save_head(tmp_path / "forged.head", forged)
    made = export(tmp_path / "forged.head", to="onnx", out=tmp_path / "m.onnx", backbone=tiny_backbone())
    assert len(made.text().splitlines()) == 2 + len(made.notes)
    assert made.text().count("\\nfeatstore: whole") == 2


def test_error_for_an_export_without_the_network_names_the_remedy(head, tmp_path):
    path, _ = head
    with pytest.raises(UsageError, match="--features-only"):
        export(path, to="onnx", out=tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="a head has no format 'parquet'; choose one of onnx, sklearn"):
        export(path, to="parquet")


def test_head_on_imported_features_is_exported_without_a_network(tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.array(["a", "b"] * 10))
    featstore.import_vectors(tmp_path / "v.npy", tmp_path / "s", identity="net", labels=tmp_path / "y.npy")
    path = train(tmp_path / "s", out=tmp_path / "h", C=1.0).path
    with pytest.raises(UsageError, match="imported as 'net', whose network featstore does not have"):
        export(path, to="onnx")
    assert export(path, to="onnx", features_only=True).out == f"{path}.onnx"
