"""Models of timm: features equal those of timm, weights come from a file or the Hub's cache, and errors are clear."""

from __future__ import annotations

import dataclasses
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from featstore.backbones import describe_backbone, layers, list_backbones, load_backbone, timm_models
from featstore.engines import describe_excess, measure_drift, open_engine
from featstore.engines.parity import EXACT, drift
from featstore.errors import FeatstoreError, Notice, UsageError
from tests.backbones.timm_weights import put_into_hub_cache, reference, write_weights
from tests.engines.parity import plain_path
from tests.made import picture

pytest.importorskip("timm")
SMALL = ("test_vit", "test_convnext", "test_efficientnet", "test_resnet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let huggingface_hub use an empty cache and no network; return the cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", SMALL)
def test_features_of_timm_backbones_equal_those_of_the_timm_library(name: str, tmp_path: Path, cache: Path) -> None:
    file = write_weights(name, tmp_path / "theirs.safetensors")
    backbone = load_backbone(f"timm/{name}", str(file))
    images = [picture(seed, (200 + 17 * seed, 180)) for seed in range(6)]
    files = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        files.append(buffer.getvalue())
    expected = np.stack(list(map(reference(name, file), images)))
    assert expected.shape == (6, backbone.dimension)
    assert drift(plain_path(backbone, files), expected)["greatest_difference"] <= EXACT
    wrong = dataclasses.replace(backbone.preprocessing, mean=(0.4, 0.4, 0.4))
    other = dataclasses.replace(backbone, preprocessing=wrong)
    assert drift(plain_path(other, files), expected)["greatest_difference"] > EXACT

    # Load the same weights by the model's name, from the Hub's cache.
    put_into_hub_cache(cache, backbone.name, file)
    named = load_backbone(f"timm/{name}")
    assert (named.weights_digest, named.name) == (backbone.weights_digest, backbone.name)
    assert describe_backbone(backbone.name).at_hand


def test_features_of_timm_backbones_with_another_size_or_pool_equal_those_of_the_timm_library(tmp_path: Path) -> None:
    import timm

    file = write_weights("test_vit", tmp_path / "theirs.safetensors")
    backbone = layers.resized(load_backbone("timm/test_vit", str(file)), 192, None)
    overlay = {"file": str(file), "hf_hub_id": None, "url": None}
    theirs = timm.create_model("test_vit", True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=192).eval()
    pictures = torch.randn(2, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    tokens = layers.take(backbone, "norm", "cls+mean")
    with torch.inference_mode():
        torch.testing.assert_close(backbone.module(pictures), theirs(pictures))
        every = theirs.forward_features(pictures)
        expected = torch.cat([every[:, 0], every[:, theirs.num_prefix_tokens :].mean(1)], 1)
        torch.testing.assert_close(tokens.module(pictures), expected)
    assert (tokens.dimension, backbone.preprocessing.crop) == (128, 192)
    with pytest.raises(UsageError, match="does not take pictures of 7 x 7"):
        layers.resized(load_backbone("timm/test_vit", str(file)), 7, None)


def test_timm_model_that_distorts_pictures_uses_fit_squash() -> None:
    info = {one.name: one for one in list_backbones("timm/convnext_tiny.in12k_ft_in1k_384")}
    assert info["timm/convnext_tiny.in12k_ft_in1k_384"].input_size == 384
    model = timm_models.find("convnext_tiny.in12k_ft_in1k_384")
    assert (model.preprocessing.fit, model.preprocessing.resize) == ("squash", 384)


def test_timm_names_ignore_case_and_include_the_tag_of_the_weights() -> None:
    backbone = load_backbone("timm/Test_ViT", "random:3")
    assert (backbone.name, backbone.weights, backbone.layer) == ("timm/test_vit.r160_in1k", "random:3", "input of head")
    assert backbone.weights_digest == load_backbone("timm/test_vit.r160_in1k", "random:3").weights_digest
    assert backbone.weights_digest != load_backbone("timm/test_vit", "random:4").weights_digest


def test_unreachable_hugging_face_hub_gives_a_one_line_error_with_the_remedy(cache: Path) -> None:
    with pytest.warns(Notice) as notes, pytest.raises(FeatstoreError) as error:
        load_backbone("timm/test_vit")
    assert "downloading the weights r160_in1k of timm/test_vit.r160_in1k from timm/test_vit.r160_in1k" in str(
        notes[0].message
    )
    assert str(notes[0].message).endswith(f"kept in {cache}")
    assert "timm/test_vit.r160_in1k" in str(error.value)
    assert "--weights FILE.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/resnet18x", "has no model 'resnet18x'; did you mean"),
        ("timm/hf-hub:some/one", "has no model"),
        ("timm/local-dir:/etc", "has no model"),
        ("timm/", "has no model"),
        ("timm/test_vit.other_in1k", "no weights 'other_in1k' of test_vit; there are r160_in1k"),
        ("timm/vit_base_patch16_sapiens2", "only square colour pictures"),
    ],
)
def test_invalid_timm_names_give_a_one_line_error(name: str, words: str) -> None:
    with pytest.raises(UsageError) as error:
        load_backbone(name, "random:0")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    file = write_weights("test_resnet", tmp_path / "resnet.safetensors")
    for name in ("test_vit", "test_convnext", "test_efficientnet"):
        with pytest.raises(UsageError, match=r"resnet\.safetensors does not fit timm/"):
            load_backbone(f"timm/{name}", str(file))


def test_pickled_weights_from_the_hugging_face_hub_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "_hub_file", lambda *_: ("timm/test_vit", "pytorch_model.bin"))
    with pytest.raises(UsageError, match="could run code"):
        load_backbone("timm/test_vit")


def test_error_without_timm_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'image-featstore\[timm\]'"):
        load_backbone("timm/resnet18")


def test_timm_models_are_listed_by_a_name_pattern() -> None:
    assert not [one for one in list_backbones() if one.source == "timm"]
    found = {one.name: one for one in list_backbones("timm/vit_*dinov2*")}
    assert (found["timm/vit_small_patch14_dinov2.lvd142m"].input_size, len(found)) == (518, 8)
    one = describe_backbone("timm/test_vit")
    assert (one.dimension, one.parameters, one.source) == (64, 306_240, "timm")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_engines_agree_with_plain_torch_on_timm_models(name: str, tmp_path: Path) -> None:
    backbone = load_backbone(f"timm/{name}", str(write_weights(name, tmp_path / "theirs.safetensors")))
    side = backbone.preprocessing.crop
    pixels = np.stack([np.asarray(picture(seed, (side, side))) for seed in range(8)])
    plain = open_engine(backbone, engine="torch", device="cpu")
    for engine in ("torch-folded", "openvino", "openvino-int8"):
        opened = open_engine(backbone, engine=engine, device="cpu")
        measured = measure_drift(opened, plain, pixels)
        assert describe_excess(opened.precision, measured) == "", engine
