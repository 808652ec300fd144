from __future__ import annotations

from pathlib import Path

import pytest
from torchvision import models

from featstore.backbones import architectures, base, list_backbones
from featstore.backbones.catalogue import _DIMENSIONS


def test_catalogue_lists_all_of_torchvisions_models() -> None:
    listed = {info.name: info for info in list_backbones()}
    assert set(listed) == {*models.list_models(module=models), *(f"efficientnet_lite{number}" for number in range(3))}
    assert set(_DIMENSIONS) >= set(listed)
    assert list(listed) == sorted(listed)
    resnet = listed["resnet50"]
    assert (resnet.dimension, resnet.input_size, resnet.parameters) == (2048, 224, 25_557_032)
    assert resnet.weights == "IMAGENET1K_V2"
    assert set(resnet.all_weights) == {"IMAGENET1K_V1", "IMAGENET1K_V2"}
    assert not resnet.at_hand
    assert listed["efficientnet_lite0"].at_hand


@pytest.mark.parametrize("name", ["mnasnet0_5", "regnet_x_400mf", "shufflenet_v2_x2_0", "efficientnet_b3", "vgg13_bn"])
def test_catalogue_dimensions_equal_those_of_built_networks(name: str) -> None:
    architecture = architectures.find(name)
    assert base.cut(architecture.empty(architecture.default))[1] == _DIMENSIONS[name]


def test_missing_catalogue_dimension_is_read_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_DIMENSIONS, "resnet18")
    assert {info.name: info for info in list_backbones()}["resnet18"].dimension == 512


def test_downloaded_weights_are_listed_as_local(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / Path(models.ResNet18_Weights.DEFAULT.url).name).write_bytes(b"")
    assert {info.name: info.at_hand for info in list_backbones()}["resnet18"]
