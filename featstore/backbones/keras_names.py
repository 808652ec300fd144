"""Names of layers in Keras' networks, as courses use them, for the same layers of torchvision's networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

_MOBILENET_PARTS: Final = {
    "expand": "conv.0.0",
    "expand_BN": "conv.0.1",
    "expand_relu": "conv.0.2",
    "depthwise": "conv.1.0",
    "depthwise_BN": "conv.1.1",
    "depthwise_relu": "conv.1.2",
    "project": "conv.2",
    "project_BN": "conv.3",
}
_MOBILENET_SKIPS: Final = (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
"""Indices of those blocks of MobileNetV2 that add their input to their output."""
_VGG16_CONVOLUTIONS: Final = (2, 2, 3, 3, 3)
_RESNET50_BLOCKS: Final = (3, 4, 6, 3)
_EFFICIENTNET_B0_BLOCKS: Final = (1, 2, 2, 3, 3, 4, 1)
_INCEPTION_BLOCKS: Final = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")


def torchvision_name(backbone: str, layer: str) -> str:
    """Convert ``layer``, Keras' name of a layer, to the layer's name in torchvision's network ``backbone``.

    Keras names exist for mobilenet_v2, vgg16, resnet50, inception_v3 and efficientnet_b0. Python's way to write a
    module, such as ``features[13].conv[2]``, is understood for every network. Other names are returned unchanged.
    """
    plain = re.sub(r"\[([0-9]+)\]", r".\1", layer)
    return table(backbone).get(plain, plain)


@cache
def table(backbone: str) -> Mapping[str, str]:
    """Return a dict from Keras' names of the layers of ``backbone`` to torchvision's names; {} if there are none.

    In Keras the convolutions of VGG16 include their ReLU, so ``block5_conv3`` is the ReLU after the convolution.
    """
    makers: dict[str, Callable[[], dict[str, str]]] = {
        "mobilenet_v2": _mobilenet_v2,
        "vgg16": _vgg16,
        "resnet50": _resnet50,
        "inception_v3": lambda: {f"mixed{number}": f"Mixed_{name}" for number, name in enumerate(_INCEPTION_BLOCKS)},
        "efficientnet_b0": _efficientnet_b0,
    }
    return makers[backbone]() if backbone in makers else {}


def _mobilenet_v2() -> dict[str, str]:
    first = {"depthwise": "conv.0.0", "depthwise_BN": "conv.0.1", "depthwise_relu": "conv.0.2"}
    first |= {"project": "conv.1", "project_BN": "conv.2"}
    names = {"Conv1": "features.0.0", "bn_Conv1": "features.0.1", "Conv1_relu": "features.0.2"}
    names |= {f"expanded_conv_{part}": f"features.1.{place}" for part, place in first.items()}
    for number in range(1, 17):
        block = f"features.{number + 1}"
        names[f"block_{number}"] = block
        names |= {f"block_{number}_{part}": f"{block}.{place}" for part, place in _MOBILENET_PARTS.items()}
        if number in _MOBILENET_SKIPS:
            names[f"block_{number}_add"] = block
    return names | {"Conv_1": "features.18.0", "Conv_1_bn": "features.18.1", "out_relu": "features.18.2"}


def _vgg16() -> dict[str, str]:
    names, at = {}, 0
    for block, convolutions in enumerate(_VGG16_CONVOLUTIONS, 1):
        for number in range(1, convolutions + 1):
            names[f"block{block}_conv{number}"] = f"features.{at + 1}"
            at += 2
        names[f"block{block}_pool"] = names[f"block{block}"] = f"features.{at}"
        at += 1
    return names | {"fc1": "classifier.1", "fc2": "classifier.4"}


def _resnet50() -> dict[str, str]:
    names = {"conv1_conv": "conv1", "conv1_bn": "bn1", "conv1_relu": "relu", "pool1_pool": "maxpool"}
    for stage, blocks in enumerate(_RESNET50_BLOCKS, 1):
        for number in range(blocks):
            keras, block = f"conv{stage + 1}_block{number + 1}", f"layer{stage}.{number}"
            names[f"{keras}_out"] = block
            for part in (1, 2, 3):
                names |= {f"{keras}_{part}_conv": f"{block}.conv{part}", f"{keras}_{part}_bn": f"{block}.bn{part}"}
        first = f"conv{stage + 1}_block1_0"
        names |= {f"{first}_conv": f"layer{stage}.0.downsample.0", f"{first}_bn": f"layer{stage}.0.downsample.1"}
    return names | {"avg_pool": "avgpool"}


def _efficientnet_b0() -> dict[str, str]:
    names = {"stem_conv": "features.0.0", "stem_bn": "features.0.1", "stem_activation": "features.0.2"}
    for stage, blocks in enumerate(_EFFICIENTNET_B0_BLOCKS, 1):
        names[f"block{stage}"] = f"features.{stage}"
        for number in range(blocks):
            name = f"block{stage}{'abcd'[number]}"
            names[name] = f"features.{stage}.{number}"
            if number:
                names[f"{name}_add"] = names[name]
    return names | {"top_conv": "features.8.0", "top_bn": "features.8.1", "top_activation": "features.8.2"}
