"""Commands that accept the path of a model folder: predict, extract, search, export, info and backbones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featstore.artifacts import open_head
from featstore.artifacts.model import write_model
from featstore.embed.recipe import Request
from featstore.errors import IdentityError, UsageError
from featstore.stages.backbones import describe_backbone, list_layers
from featstore.stages.export import export
from featstore.stages.index import index
from featstore.stages.info import info
from featstore.stages.predict import predict
from featstore.stages.remove import purge
from featstore.stages.search import search
from featstore.stages.train import train
from featstore.store import FeatureStore
from tests.chain import names, write_coloured
from tests.made import extract
from tests.tuned import NETWORK, changed_backbone, random_head, write_tuned


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pictures, a model "m", and the store "s" of the pictures' features by this model."""
    folder = tmp_path_factory.mktemp("place")
    write_coloured(folder / "pictures", names("train", 6) + names("val", 3))
    write_tuned(folder / "m", classes=("ant", "bee", "cow"))
    extract(folder / "pictures", folder / "s", backbone=str(folder / "m"), engine="torch")
    return folder


def test_store_of_features_from_a_model_records_the_model(place: Path) -> None:
    store, model = info(place / "s"), info(place / "m")
    assert store["weights_name"] == str(place / "m")
    assert (store["identity"], store["fingerprint"]) == (model["identity"], model["fingerprint"])
    assert store["identity"]["backbone"] == NETWORK
    assert not Request(backbone=str(place / "m")).agrees(FeatureStore.open(place / "s")._manifest)


def test_model_predicts_the_same_from_pictures_and_from_stored_features(place: Path) -> None:
    pictures = sorted((place / "pictures" / "val").rglob("*.png"))
    by_picture = predict(place / "m", pictures, engine="torch")
    by_store = {each.key: each for each in predict(place / "m", place / "s")}
    by_head = {each.key: each for each in predict(place / "m" / "model.head", place / "s")}
    assert by_picture.classes == ["ant", "bee", "cow"]
    for each in by_picture:
        key = str(Path(each.key).relative_to(place / "pictures"))
        assert each.label == by_store[key].label == by_head[key].label
        np.testing.assert_allclose(each.probabilities, by_store[key].probabilities, atol=1e-4)


def test_error_for_the_head_file_of_a_model_asks_for_the_model_folder(place: Path) -> None:
    head, picture = place / "m" / "model.head", place / "pictures/val/ant/00.png"
    with pytest.raises(
        UsageError, match=r"was made with the weights .*/m; name their file with --weights, or their model f"
    ):
        predict(head, picture)
    (asked,) = predict(head, picture, weights=str(place / "m"), engine="torch")
    (named,) = predict(place / "m", picture, engine="torch")
    assert np.array_equal(asked.probabilities, named.probabilities)


def test_model_rejects_features_of_another_network(place: Path, tmp_path: Path) -> None:
    extract(place / "pictures", tmp_path / "other", backbone=NETWORK, weights="random:0", size=32, engine="torch")
    with pytest.raises(IdentityError, match="features of another identity: weights"):
        predict(place / "m", tmp_path / "other")


@pytest.mark.slow
def test_extract_asks_for_the_model_of_a_store_with_pending_pictures(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    store = tmp_path / "s"
    extract(tmp_path / "pictures", store, backbone=str(place / "m"), engine="torch")
    write_coloured(tmp_path / "pictures", ["val/ant/new.png"], seed=9)
    with pytest.raises(UsageError, match="name their file"):
        extract(tmp_path / "pictures", store, engine="torch")
    with pytest.raises(IdentityError, match=f"has features of {NETWORK}, not resnet18"):
        extract(tmp_path / "pictures", store, backbone="resnet18", engine="torch")
    write_tuned(tmp_path / "other", changed_backbone(seed=5))
    with pytest.raises(IdentityError, match="weights"):
        extract(tmp_path / "pictures", store, backbone=str(tmp_path / "other"), engine="torch")
    assert extract(tmp_path / "pictures", store, weights=str(place / "m"), engine="torch").new_vectors == 1
    write_coloured(tmp_path / "pictures", ["val/ant/newer.png"], seed=10)
    assert extract(tmp_path / "pictures", store, backbone=str(place / "m"), engine="torch").new_vectors == 1


@pytest.mark.slow
def test_heads_and_indexes_on_features_of_a_model_need_its_path(place: Path, tmp_path: Path) -> None:
    picture = place / "pictures/val/ant/00.png"
    head = train(place / "s", out=tmp_path / "a.head", C=1.0).path
    found = index(place / "s", out=tmp_path / "an.index").path
    for use in (
        lambda **model: list(predict(head, picture, engine="torch", **model)),
        lambda **model: search(found, [picture], engine="torch", **model).queries,
    ):
        with pytest.raises(UsageError, match="name their file"):
            use()
        for option in ("weights", "backbone"):
            assert len(use(**{option: str(place / "m")})) == 1


@pytest.mark.slow
def test_inner_layers_of_a_model_can_be_extracted(place: Path, tmp_path: Path) -> None:
    about, layers = describe_backbone(str(place / "m")), list_layers(str(place / "m"))
    assert (about.name, about.dimension, about.input_size, about.source) == (NETWORK, 1024, 32, "model")
    shapes = {layer.name: layer.shape for layer in layers}
    assert shapes["stage3"] == (96, 2, 2)
    assert "fc" not in shapes
    store = tmp_path / "s"
    extract(place / "pictures", store, backbone=str(place / "m"), layer="stage3", pool="max", engine="torch")
    assert FeatureStore.open(store).shape == (18, 96)
    with pytest.raises(UsageError, match="has no layer 'stage9'"):
        extract(place / "pictures", tmp_path / "t", backbone=str(place / "m"), layer="stage9", engine="torch")


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [0, 4])
def test_onnx_export_of_a_model_maps_pixels_to_class_probabilities(tmp_path: Path, hidden: int) -> None:
    pytest.importorskip("onnxruntime")
    write_tuned(tmp_path / "m", hidden=hidden)
    made = export(f"{tmp_path}/m/")
    assert (made.out, made.classes) == (f"{tmp_path}/m.onnx", ["ant", "bee"])
    assert made.greatest_difference is not None
    assert made.greatest_difference < 1e-4
    assert made.inputs.startswith("pixels (height, width, 3) uint8")
    assert export(tmp_path / "m", features_only=True, out=tmp_path / "f.onnx").inputs.startswith("features (n, 1,024)")
    with pytest.raises(UsageError, match="a model has no format 'csv'; choose one of onnx, sklearn"):
        export(tmp_path / "m", to="csv")


def test_info_describes_a_model_and_info_on_a_folder_lists_its_models(place: Path, tmp_path: Path) -> None:
    found = info(place / "m")
    assert (found["kind"], found["backbone"], found["layer"]) == ("model", NETWORK, "input of fc")
    assert (found["classes"], found["record"]) == (["ant", "bee", "cow"], {"epochs": 1})
    assert set(found["files"]) == {"weights.safetensors", "model.head", "metrics.csv"}
    listed = info(place)
    assert [(each["kind"], Path(each["path"]).name) for each in listed["artifacts"]] == [("store", "s"), ("model", "m")]
    assert listed["unread"] == []


@pytest.mark.slow
def test_model_is_stale_after_its_training_store_got_more_pictures(tmp_path: Path) -> None:
    write_coloured(tmp_path / "pictures", names("train", 6) + names("val", 3))
    backbone = changed_backbone()
    extract(tmp_path / "pictures", tmp_path / "s", backbone=NETWORK, weights="random:0", size=32, engine="torch")
    start = open_head(train(tmp_path / "s", out=tmp_path / "start.head", C=1.0).path)
    write_model(tmp_path / "m", backbone, replace(start), {})
    states = {Path(each["path"]).name: each for each in info(tmp_path)["artifacts"]}
    assert states["m"]["stale"] == states["m"]["unknown"] == ""
    write_coloured(tmp_path / "pictures", ["train/ant/new.png"], seed=9)
    extract(tmp_path / "pictures", tmp_path / "s", engine="torch")
    states = {Path(each["path"]).name: each for each in info(tmp_path)["artifacts"]}
    assert "has 1 new picture and 0 less" in states["m"]["stale"]
    # No file records the options of a fine-tuning.
    assert states["m"]["commands"] == []


def test_purge_report_names_the_models_that_were_trained_on_the_store(tmp_path: Path) -> None:
    write_coloured(tmp_path / "pictures", names("train", 4))
    extract(tmp_path / "pictures", tmp_path / "s", backbone=NETWORK, weights="random:0", size=32, engine="torch")
    backbone = changed_backbone()
    origin = {"store": str(tmp_path / "s"), "store_id": FeatureStore.open(tmp_path / "s").store_id}
    head = replace(random_head(backbone.dimension, ["ant", "bee"]), meta={"origin": origin})
    write_model(tmp_path / "m", backbone, head, {})
    report = purge(tmp_path / "s", ["train/ant/00.png"])
    assert report.left == [
        (str(tmp_path / "m"), "its network may have been trained on the pictures: delete it, or fine-tune it again")
    ]
    assert report.rewritten == []
