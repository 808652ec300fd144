"""Model folders for tests: small networks with random weights that were changed a little, and a random head."""

from __future__ import annotations

import os

import numpy as np
import torch

from featstore.artifacts.model import Model, write_model
from featstore.backbones import Backbone, load_backbone
from featstore.backbones.layers import resized, take
from featstore.heads import TrainedHead
from featstore.heads.models import LinearModel
from featstore.heads.network import NetworkModel

NETWORK = "shufflenet_v2_x0_5"


def changed_backbone(name: str = NETWORK, size: int | None = 32, layer: str | None = None, seed: int = 0) -> Backbone:
    """Return a backbone with random weights, of which every parameter was changed as by an optimiser step."""
    backbone = resized(load_backbone(name, f"random:{seed}"), size, None)
    backbone = backbone if layer is None else take(backbone, layer)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=random))
    return backbone


def random_head(dimension: int, classes: list[str], *, hidden: int = 0, seed: int = 0) -> TrainedHead:
    """Return a head with random weights: linear, or with one layer of ``hidden`` units."""
    random, outputs = np.random.default_rng(seed), 1 if len(classes) == 2 else len(classes)
    if not hidden:
        linear = LinearModel(random.normal(size=(outputs, dimension)), random.normal(size=outputs))
        return TrainedHead("logreg", classes, linear)
    weights = [random.normal(size=shape).astype(np.float32) for shape in ((hidden, dimension), (outputs, hidden))]
    biases = [random.normal(size=len(weight)).astype(np.float32) for weight in weights]
    network = NetworkModel(tuple(weights), tuple(biases), np.zeros(dimension), np.ones(dimension))
    return TrainedHead("mlp", classes, network)


def write_tuned(
    folder: str | os.PathLike[str],
    backbone: Backbone | None = None,
    classes: tuple[str, ...] = ("ant", "bee"),
    *,
    hidden: int = 0,
    force: bool = False,
) -> Model:
    """Write a model of a small network and a random head to ``folder``; return the model."""
    backbone = backbone or changed_backbone()
    head = random_head(backbone.dimension, list(classes), hidden=hidden)
    return write_model(folder, backbone, head, {"epochs": 1}, metrics=[{"epoch": 1, "loss": 0.5}], force=force)
