"""Size, fit, layer and pool of an extraction are recorded in the store, and later runs use them by default.

Features whose size, fit, layer or pool differ from those of the store are refused.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from featstore import ImageEmbedder
from featstore.decode import decode
from featstore.embed.geometry import Geometry
from featstore.errors import IdentityError, UsageError
from featstore.stages.extract import extract as supervised
from featstore.stages.index import index
from featstore.stages.predict import predict
from featstore.stages.queries import Query
from featstore.stages.search import search
from featstore.stages.train import train
from featstore.store import FeatureStore
from tests.cli.running import run_json
from tests.made import extract, tiny_backbone, write_pictures

NAMES = [f"{label}/{number}.png" for label in ("ant", "bee") for number in range(6)]


def test_stored_feature_map_equals_the_output_of_the_layer(tmp_path):
    folder, backbone = write_pictures(tmp_path / "p", NAMES[:3]), tiny_backbone()
    asked = {"size": 24, "fit": "pad", "layer": "1", "pool": "none"}
    report = extract(folder, tmp_path / "s", backbone=backbone, engine="torch", dtype="float16", **asked)
    assert (report.vectors, report.failures) == (3, 0)
    store = FeatureStore.open(tmp_path / "s")
    assert json.loads((tmp_path / "s/featstore.json").read_text())["requires"] == ["fit", "layer"]
    how = Geometry(**asked).apply(backbone).preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (how.mean, how.std))
    for key, vector in zip(store.keys, store.features(), strict=True):
        pixels = torch.from_numpy(decode((folder / key).read_bytes(), how)).permute(2, 0, 1)
        expected = backbone.module[:2](((pixels / 255 - mean) / std)[None])[0]
        found = torch.from_numpy(np.asarray(vector, np.float32).reshape(store.identity.shape))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", ["torch-folded", "openvino"])
def test_engines_give_the_same_feature_maps_as_torch(engine, tmp_path):
    folder = write_pictures(tmp_path / "p", NAMES[:4])
    asked = {"backbone": tiny_backbone(), "size": 20, "layer": "1", "pool": "none"}
    for name in ("torch", engine):
        extract(folder, tmp_path / name, engine=name, **asked)
    ours, reference = (FeatureStore.open(tmp_path / name).features() for name in (engine, "torch"))
    np.testing.assert_allclose(ours, reference, atol=1e-4)


def test_next_extraction_refuses_another_size_fit_or_layer(tmp_path):
    folder = write_pictures(tmp_path / "p", NAMES[:2])
    asked = {"backbone": tiny_backbone(), "engine": "torch"}
    extract(folder, tmp_path / "s", size=24, fit="pad", **asked)
    for others, words in (
        ({"size": 24, "fit": "squash"}, "fit pad, not squash"),
        ({"size": 16, "fit": "pad"}, "size 24, not 16"),
        ({"size": 24, "fit": "pad", "layer": "1"}, "layer input of head, not 1"),
    ):
        with pytest.raises(IdentityError, match=words):
            extract(folder, tmp_path / "s", **others, **asked)
    # Without options a loaded backbone keeps its own size 16 and does not take the size 24 of the store.
    with pytest.raises(IdentityError, match=r"preprocessing\.crop 24, not 16"):
        extract(folder, tmp_path / "s", **asked)
    write_pictures(folder, ["cow/9.png"])
    assert extract(folder, tmp_path / "s", size=24, fit="pad", **asked).new_vectors == 1


def test_heads_refuse_features_made_with_another_fit_or_layer(tmp_path):
    folder = write_pictures(tmp_path / "p", NAMES)
    asked = {"backbone": tiny_backbone(), "engine": "torch"}
    for name, how in (("crop", {}), ("pad", {"fit": "pad"}), ("max", {"layer": "2", "pool": "max"})):
        extract(folder, tmp_path / name, **how, **asked)
    stores = {name: FeatureStore.open(tmp_path / name) for name in ("crop", "pad", "max")}
    head = train(tmp_path / "pad", out=tmp_path / "head").head
    with pytest.raises(IdentityError, match="preprocessing"):
        head.predict(stores["crop"].features())
    with pytest.raises(IdentityError, match="layer input of head"):
        head.predict(stores["max"].features())
    # Without an option, predict pads the picture, because the head was trained on features of padded pictures.
    found = predict(tmp_path / "head", [folder / NAMES[0]], backbone=tiny_backbone())
    expected = head.predict_proba(stores["pad"].features()[:1])
    assert [row.probability for row in found] == pytest.approx([expected.max()], abs=1e-5)


def scene(brightness: int, with_object: bool) -> Image.Image:
    """Return a wide picture of one brightness; ``with_object``: with an object near the left edge, which a crop cuts
    off."""
    pixels = np.full((96, 288, 3), brightness, np.uint8)
    if with_object:
        checks = np.indices((56, 56)).sum(0) // 7 % 2
        pixels[20:76, 4:60] = np.where(checks[..., None], (250, 30, 30), (20, 30, 240))
    return Image.fromarray(pixels)


@pytest.mark.slow
def test_fit_pad_keeps_an_object_at_the_edge_of_a_picture_and_fit_crop_cuts_it_off(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    for number in range(8):
        scene(90 + 10 * number, number == 7).save(folder / f"{number}.png")
    scene(130, True).save(tmp_path / "query.png")
    indexes = {}
    for fit in ("pad", "crop"):
        asked = {"backbone": "efficientnet_lite0", "size": 128, "fit": fit, "engine": "torch"}
        supervised(folder, tmp_path / fit, supervised=False, **asked)
        indexes[fit] = index(tmp_path / fit).path
    # The command runs in a fresh process without options for network, size and fit.
    found = run_json("search", indexes["pad"], tmp_path / "query.png", "--k", "3")
    assert found["queries"][0]["neighbours"][0]["key"] == "7.png"
    report = search(indexes["crop"], tmp_path / "query.png", k=8)
    keys = [each.key for each in report.queries[0].neighbours]
    # Cropped pictures are compared by the brightness of their centre: 4.png is as bright there as the query, 7.png
    # brighter.
    assert keys[0] == "4.png"
    assert keys.index("7.png") > 3
    with pytest.raises(IdentityError, match="fit crop, not pad"):
        supervised(folder, tmp_path / "crop", fit="pad")
    query = Query(vectors=[FeatureStore.open(tmp_path / "crop").features()[:1]])
    with pytest.raises(IdentityError, match="preprocessing"):
        search(indexes["pad"], like=query)


def test_image_embedder_accepts_size_fit_layer_and_pool(tmp_path):
    pictures = [np.zeros((32, 48), np.uint8), np.full((64, 64, 3), 255, np.uint8)]
    embedder = ImageEmbedder(tiny_backbone(), engine="torch", size=20, picture_fit="squash", layer="1", pool="none")
    features = embedder.transform(pictures)
    assert features.identity.shape == (6, 9, 9)
    assert features.shape == (2, 486)
    assert features.identity.preprocessing["fit"] == "squash"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "size: 0"),
        ({"size": 100_000}, "size: 100000"),
        ({"size": 1}, "does not take pictures of 1 x 1 pixels"),
        ({"fit": "stretch"}, "fit: 'stretch'"),
        ({"layer": "nowhere"}, "no layer 'nowhere'"),
        ({"layer": "1", "pool": "cls"}, "without a class token"),
        ({"layer": "4", "pool": "none"}, "takes no pool"),
        ({"pool": "avg"}, "needs the layer"),
    ],
)
def test_extract_with_invalid_size_fit_or_layer_makes_no_store(options, words, tmp_path):
    folder = write_pictures(tmp_path / "p", NAMES[:1])
    with pytest.raises(UsageError, match=words) as error:
        extract(folder, tmp_path / "s", backbone=tiny_backbone(), engine="torch", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "s").exists()
