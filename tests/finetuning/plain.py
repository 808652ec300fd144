"""Fine-tuning as courses write it: torchvision's own network, frozen by hand and trained in a plain PyTorch loop."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featstore.backbones import Backbone, architectures, base, load_backbone
from featstore.backbones.layers import resized
from featstore.finetuning.network import TunedNetwork, auxiliary_classifier, head_from_model
from featstore.finetuning.partition import Partition, split_at
from featstore.heads.models import LinearModel

CLASSES = 3
AUXILIARY_WEIGHT = 0.4


@dataclass(frozen=True)
class Course:
    """A network to fine-tune. ``layer``: the last frozen layer. ``frozen``: the frozen parts of the network.

    ``size``: side length of the pictures in pixels, as small as possible to save time.
    """

    layer: str
    size: int
    frozen: Callable[[Any], list[nn.Module | nn.Parameter]]


def _inception(net: Any) -> list[nn.Module | nn.Parameter]:
    children = list(net.named_children())
    return [child for _, child in children[: [name for name, _ in children].index("Mixed_6e")]]


COURSES = {
    "resnet50": Course("layer3", 64, lambda net: [net.conv1, net.bn1, net.layer1, net.layer2, net.layer3]),
    "vgg16": Course("block4_pool", 32, lambda net: [net.features[:24]]),
    "mobilenet_v2": Course("block_12", 64, lambda net: [net.features[:14]]),
    "inception_v3": Course("mixed6", 299, _inception),
    "efficientnet_b0": Course("block6", 64, lambda net: [net.features[:7]]),
    "efficientnet_lite0": Course("_blocks.14", 64, lambda net: [net._conv_stem, net._bn0, net._blocks[:15]]),
    "vit_b_16": Course(
        "encoder.layers.encoder_layer_10",
        224,
        lambda net: [net.conv_proj, net.class_token, net.encoder.pos_embedding, net.encoder.layers[:11]],
    ),
}


def backbone_of(name: str) -> Backbone:
    """Return the network with random weights for pictures of the course's size, as a copy of its own for each call.

    BatchNorm layers hold the statistics of one batch; otherwise activations vanish in deep random networks.
    """
    return copy.deepcopy(_made(name))


@functools.cache
def _made(name: str) -> Backbone:
    backbone = resized(load_backbone(name, "random:0"), COURSES[name].size, None)
    norms = [module for module in backbone.module.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    if norms:
        with torch.no_grad():
            backbone.module(pictures_of(name, 16 if COURSES[name].size < 100 else 4)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
    return backbone


def divided(name: str, layer: str | None = None) -> tuple[Backbone, Partition, TunedNetwork]:
    """Return backbone, partition and network with a linear head for CLASSES classes."""
    backbone = backbone_of(name)
    partition = split_at(backbone, COURSES[name].layer if layer is None else layer)
    coef = np.random.default_rng(0).standard_normal((CLASSES, backbone.dimension)) * 0.01
    head = head_from_model(LinearModel(coef, np.zeros(CLASSES)))
    return backbone, partition, TunedNetwork(partition, head, auxiliary_classifier(partition, CLASSES, 0))


def by_hand(name: str) -> nn.Module:
    """Return torchvision's network with the same weights and head, frozen by ``requires_grad = False`` and ``eval()``."""
    architecture = architectures.find(name)
    with torch.device("meta"), warnings.catch_warnings():
        # torchvision's Inception announces another initialisation.
        warnings.simplefilter("ignore", FutureWarning)
        network: Any = architecture.constructor(**architecture.default.options)
    network.to_empty(device="cpu")
    classifier = base.classifier_of(network)
    backbone, partition, ours = divided(name)
    loaded = network.load_state_dict(backbone.module.state_dict(), strict=False)
    assert all(key.startswith((classifier, "AuxLogits")) for key in loaded.missing_keys), loaded
    parent, _, leaf = classifier.rpartition(".")
    setattr(network.get_submodule(parent), leaf, ours.head)
    network.train()
    if name == "inception_v3":
        network.AuxLogits = auxiliary_classifier(partition, CLASSES, 0).train()
    for part in COURSES[name].frozen(network):
        part.requires_grad_(False)
        if isinstance(part, nn.Module):
            part.eval()
    return network


def loss_of(output: Any, codes: Tensor) -> Tensor:
    """Return the cross-entropy loss, plus 0.4 times that of the auxiliary classifier if there is one."""
    if isinstance(output, tuple):
        return loss_of(output[0], codes) + AUXILIARY_WEIGHT * loss_of(output[1], codes)
    return nn.functional.cross_entropy(output, codes)


def steps(
    network: nn.Module,
    inputs: Tensor,
    codes: Tensor,
    count: int,
    batch: int,
    optimiser: Callable[..., Any],
    rate: float,
) -> None:
    """Train ``network`` for ``count`` steps on random batches of ``inputs``; fixed seeds determine batches and dropout."""
    chosen = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = optimiser(chosen, lr=rate)
    for number in range(count):
        rows = np.random.default_rng(number).choice(len(inputs), batch, replace=False)
        torch.manual_seed(number)
        optimiser.zero_grad()
        loss_of(network(inputs[rows]), codes[rows]).backward()
        optimiser.step()


def pictures_of(name: str, count: int) -> tuple[Tensor, Tensor]:
    """Return random normalised pictures (count, 3, size, size) and their class numbers."""
    random = np.random.default_rng(1)
    side = COURSES[name].size
    pictures = torch.from_numpy(random.standard_normal((count, 3, side, side)).astype(np.float32))
    return pictures, torch.from_numpy(random.integers(0, CLASSES, count))


def stored(trunk: nn.Module, pictures: Tensor, batch: int) -> Tensor:
    """Return the trunk's activations of all pictures, computed in batches."""
    with torch.no_grad():
        return torch.cat([trunk(part) for part in pictures.split(batch)])


def greatest_difference(name: str, ours: TunedNetwork, backbone: Backbone, plain: nn.Module) -> dict[str, float]:
    """Return the largest differences from the network trained by hand: of all parameters, and of all buffers."""
    classifier = base.classifier_of(plain)
    own = {**_tensors(backbone.module), **{f"{classifier}.{key}": each for key, each in _tensors(ours.head).items()}}
    if ours.auxiliary is not None:
        own |= {f"AuxLogits.{key}": each for key, each in _tensors(ours.auxiliary).items()}
    theirs = _tensors(plain)
    assert own.keys() == theirs.keys(), (name, own.keys() ^ theirs.keys())
    kinds = {"parameters": dict(plain.named_parameters()), "buffers": dict(plain.named_buffers())}
    return {
        kind: max([0.0, *(float((own[key] - theirs[key]).abs().max()) for key in keys)]) for kind, keys in kinds.items()
    }


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in [*network.named_parameters(), *network.named_buffers()]}
