"""List backbones and whether their weights are available offline; list the layers of a backbone."""

from __future__ import annotations

from featstore.backbones import BackboneInfo, describe_backbone, layers, list_backbones, load_backbone, names_model
from featstore.backbones.layers import Layer

__all__ = ["BackboneInfo", "Layer", "describe_backbone", "list_backbones", "list_layers"]


def list_layers(name: str) -> list[Layer]:
    """Return the layers of the backbone or model folder ``name``, in the order of computation.

    The shapes are those for the picture size of the default weights or of the model. Nothing is downloaded. Raises
    UsageError for an unknown backbone; DamagedError for a damaged model.
    """
    if not names_model(name):
        return layers.list_layers(name)
    backbone = load_backbone(name)
    found = layers.layers_of(backbone.module, backbone.preprocessing.crop, backbone.name)
    return [layer for layer in found.values() if layer.name and backbone.layer != f"input of {layer.name}"]
