from __future__ import annotations

import numpy as np
import pytest
import torch

from featstore.backbones import load_backbone
from featstore.decode import decode
from featstore.engines import open_engine
from tests.decode.pictures import encode, photograph
from tests.engines import parity


@pytest.mark.parametrize(
    ("name", "weights"), [("efficientnet_lite0", None), ("mobilenet_v2", "random:0"), ("resnet18", "random:0")]
)
def test_plain_engine_agrees_with_torchvision_and_wrong_preprocessing_does_not(name: str, weights: str | None) -> None:
    sizes = [(320, 240), (240, 320), (500, 260), (260, 256)]
    files = [encode(photograph(seed, *size), "JPEG", quality=90) for seed, size in enumerate(sizes)]
    result = parity.compare(name, weights, files)
    assert set(result) == {"plain", "normalisation", "resize", "interpolation", "BGR"}
    assert parity.agrees(result), result


def test_network_inputs_equal_those_of_torchvision_bit_for_bit() -> None:
    from torchvision import models

    backbone = load_backbone("resnet18", "random:1")
    seen: list[torch.Tensor] = []
    backbone.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = photograph(0)
    open_engine(backbone, engine="torch", device="cpu")(decode(encode(image), backbone.preprocessing)[None])
    assert torch.equal(seen[0][0], models.ResNet18_Weights.DEFAULT.transforms()(image))


def test_features_of_a_picture_do_not_depend_on_its_batch() -> None:
    engine = open_engine(load_backbone("resnet18", "random:0"), engine="torch", device="cpu")
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    pictures.flags.writeable = False
    together = engine(pictures)
    assert together.shape == (3, 512)
    assert together.dtype == np.float32
    np.testing.assert_allclose(engine(pictures[1:2])[0], together[1], rtol=1e-4, atol=1e-5)
    assert engine.dimension == 512
    assert engine.precision == "fp32"
