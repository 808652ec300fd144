"""Load a Backbone by name and weights, or from a model folder, which ``featstore finetune`` writes."""

from __future__ import annotations

from featstore import defaults
from featstore.backbones import base, load
from featstore.backbones.model_folder import load_model_backbone
from featstore.errors import IdentityError, UsageError
from featstore.files.model_folder import is_model


def names_model(name: str) -> bool:
    """Return whether the user's text ``name`` is the path of a model folder; names of backbones take precedence."""
    return load.own_function(name) is None and not load.exists(name) and is_model(name)


def load_backbone(name: str = defaults.BACKBONE, weights: str | None = None) -> base.Backbone:
    """Return the backbone ``name`` with ``weights``. Both must come from the user.

    ``name``: as for load.load_backbone, or the path of a model folder; a model folder holds its weights, so ``weights``
    must be None. ``weights``: as for ``load_recorded``. Raises the errors of load.load_backbone and
    load_model_backbone.
    """
    if names_model(name):
        if weights is not None:
            raise UsageError(f"{name}: is a model, which holds its weights; leave --weights out")
        return load_model_backbone(name)
    return load_recorded(name, weights) if load.own_function(name) is None else load.load_backbone(name, weights)


def load_recorded(name: str, weights: str | None) -> base.Backbone:
    """Return the built-in backbone ``name`` with ``weights``. If ``weights`` is a path, it must come from the user.

    ``weights``: as for load.load_recorded, or the path of a model folder. Raises the errors of load.load_recorded and
    load_model_backbone; IdentityError if the model has another architecture.
    """
    if weights is None or load.known_weights(name, weights) or not is_model(weights):
        return load.load_recorded(name, weights)
    backbone = load_model_backbone(weights)
    if backbone.name != load.backbone_name(name):
        raise IdentityError(
            f"{weights}: is a model of {backbone.name}, not {load.backbone_name(name)}; name its backbone"
        )
    return backbone
