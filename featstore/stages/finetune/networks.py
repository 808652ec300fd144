"""Load the network of a store for fine-tuning, or make networks and heads with random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np

from featstore.backbones import Backbone, load_recorded
from featstore.backbones.model_folder import require_rebuildable
from featstore.embed.geometry import Geometry
from featstore.embed.recipe import load_again, of_backbone
from featstore.errors import IdentityError, UsageError
from featstore.heads.models import LinearModel
from featstore.stages.finetune.options import FinetuneOptions
from featstore.store import FeatureStore

_DEVIATION: Final = 0.01
"""Standard deviation of the random weights of a linear head, as torchvision initialises its classifiers."""


def backbone_of(store: FeatureStore, options: FinetuneOptions) -> Backbone:
    """Load the network that made the features of ``store``, with parameters that may be trained.

    Raises UsageError if the store's features are not the inputs of the network's classifier, if the network cannot be
    loaded, or if it is the user's own function, which a model folder cannot hold; IdentityError if the loaded weights
    are not those of the store.
    """
    identity, what = store.identity, str(store.path)
    identity.require_pictures(what)
    identity.require_plain(what)
    if Geometry.of(identity).layer is not None:
        raise UsageError(
            f"{what}: has features of an inner layer ({identity.layer}); fine-tuning needs a store of the network's own "
            "features, which featstore extract makes without --layer"
        )
    backbone = load_again(identity, store.weights_name, options.backbone, options.weights, what)
    backbone = Geometry.of(identity).apply(backbone)
    require_rebuildable(backbone)
    loaded = of_backbone(backbone)
    if loaded["weights"] != identity.weights:
        raise IdentityError(
            f"{what}: was made with other weights ({identity.weights[:12]}) than these ({loaded['weights'][:12]}); name the "
            "file of its weights with --weights"
        )
    return backbone


def untrained_backbone(backbone: Backbone, seed: int) -> Backbone:
    """Return the architecture of ``backbone`` with random weights, initialised as by the authors of the network."""
    steps = backbone.preprocessing
    fresh = load_recorded(backbone.name, f"random:{seed}")
    return replace(Geometry(steps.crop, steps.fit).apply(fresh), preprocessing=steps)


def untrained_model(model: Any, seed: int) -> Any:
    """Return a head with random weights and the same layers as ``model``, a LinearModel or NetworkModel."""
    random = np.random.default_rng(seed)
    if isinstance(model, LinearModel):
        coef = random.normal(0, _DEVIATION, model.coef.shape)
        return LinearModel(coef, np.zeros_like(model.intercept), 1.0)
    weights = tuple(
        random.normal(0, np.sqrt(2 / each.shape[1]), each.shape).astype(np.float32) for each in model.weights
    )
    biases = tuple(np.zeros_like(each) for each in model.biases)
    mean, spread = np.zeros_like(model.mean), np.ones_like(model.spread)
    return type(model)(weights, biases, mean, spread, 1.0)
