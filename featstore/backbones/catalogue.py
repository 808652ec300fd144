"""The list of backbones with their properties, made without building the networks.

Only a torchvision model whose feature dimension is missing in a table is built.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, replace
from typing import Final

from featstore.backbones import architectures, efficientnet_lite, open_clip_models, plugins, timm_models, weights_cache
from featstore.backbones.architectures import Architecture
from featstore.backbones.base import Backbone
from featstore.backbones.load import own_function
from featstore.backbones.open import load_backbone, names_model
from featstore.errors import UsageError

# Feature dimensions of torchvision's models. Building all networks to find the dimensions would take seconds. A test
# compares a sample of this table with built networks, and the names in the table with torchvision's names. A model that
# is missing in this table is built to find its dimension.
_DIMENSIONS: Final[dict[str, int]] = {
    **dict.fromkeys(efficientnet_lite.VARIANTS, efficientnet_lite.DIMENSION),
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


SOURCES: Final = ("torchvision", "lite", "timm", "open_clip", "own", "model")
"""Where a backbone comes from: "lite" means EfficientNet-Lite, "own" the user's function, "model" a model folder; the
others are package names.
"""


@dataclass(frozen=True)
class BackboneInfo:
    """One entry of the list of backbones.

    ``dimension``: dimension of a feature vector; ``input_size``: side of the picture in pixels; ``parameters``: number
    of parameters including the classifier, as the authors of the model count. Each of these three is None if it is
    unknown before the network is built or the user's function imported. ``weights``: name of the default weights;
    ``all_weights``: names of all weights; ``at_hand``: whether the default weights can be loaded offline; ``why``:
    where these weights are, or why they cannot be loaded offline. ``source``: one of SOURCES.
    """

    name: str
    dimension: int | None
    input_size: int | None
    parameters: int | None
    weights: str
    all_weights: tuple[str, ...]
    at_hand: bool
    why: str
    source: str


def list_backbones(matching: str | None = None) -> list[BackboneInfo]:
    """Return the backbones, sorted by name. The digests of weights files on this machine are not checked here.

    ``matching``: a part of the name, or a pattern with * and ?. timm and open_clip have more than a thousand models;
    these are listed only if ``matching`` is given.
    """
    names = [*architectures.names(), *(timm_models.names() + open_clip_models.names() if matching else [])]
    own = {name: spec for name, spec in plugins.installed().items() if name not in names}
    pattern = (matching or "").lower()
    pattern = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    chosen = [name for name in sorted([*names, *own]) if fnmatch.fnmatchcase(name.lower(), pattern)]
    return [_own(name, own[name]) if name in own else _listed(name) for name in chosen]


def describe_backbone(name: str) -> BackboneInfo:
    """Return the list entry of one backbone; build its network if the dimension or number of parameters is unknown.

    ``name``: as for ``load_backbone``, also the path of a model folder; the user's own function is imported. Raises
    UsageError for an unknown name.
    """
    spec = own_function(name)
    if spec is None and names_model(name):
        return _of_network(load_backbone(name), name, "model")
    if spec is None:
        architecture = architectures.find(name)
        info = _info(architecture)
        if info.dimension is not None and info.parameters is not None:
            return info
        network = architecture.empty(architecture.default)
        parameters = sum(each.numel() for each in network.parameters())
        return replace(info, dimension=architecture.cut(network)[1], parameters=info.parameters or parameters)
    return _of_network(load_backbone(name), spec, "own")


def _of_network(backbone: Backbone, origin: str, source: str) -> BackboneInfo:
    """Return the entry of a loaded backbone; ``origin``: the user's function or the model folder that it comes from."""
    return BackboneInfo(
        name=backbone.name,
        dimension=backbone.dimension,
        input_size=backbone.preprocessing.crop,
        parameters=sum(each.numel() for each in backbone.module.parameters()),
        weights=origin,
        all_weights=(origin,),
        at_hand=True,
        why=f"from {origin}",
        source=source,
    )


def _listed(name: str) -> BackboneInfo:
    """Return the catalogue entry of the backbone ``name``. Its ``why`` tells if featstore does not support the input of
    the backbone.
    """
    try:
        return _info(architectures.find(name))
    except UsageError as error:
        return BackboneInfo(name, None, None, None, "-", (), False, str(error), _source(name))


def _own(name: str, spec: str) -> BackboneInfo:
    why = "not imported until it is named"
    return BackboneInfo(name, None, None, None, spec, (spec,), True, why, "own")


def _info(architecture: Architecture) -> BackboneInfo:
    name, default = architecture.name, architecture.default
    at_hand, why = weights_cache.availability(default)
    source = _source(name)
    dimension = _DIMENSIONS.get(name)
    if dimension is None and source == "torchvision":
        dimension = architecture.cut(architecture.empty(default))[1]
    return BackboneInfo(
        name=name,
        dimension=dimension,
        input_size=default.preprocessing.crop,
        parameters=default.parameters,
        weights=default.name,
        all_weights=tuple(architecture.entries),
        at_hand=at_hand,
        why=why,
        source=source,
    )


def _source(name: str) -> str:
    if name in efficientnet_lite.VARIANTS:
        return "lite"
    prefixes = {timm_models.PREFIX: "timm", open_clip_models.PREFIX: "open_clip"}
    return next((source for prefix, source in prefixes.items() if name.startswith(prefix)), "torchvision")
