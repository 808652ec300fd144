"""List backbones, with the offline availability of their weights, and list the layers of a backbone."""

from __future__ import annotations

from featstore.backbones import BackboneInfo, describe_backbone, list_backbones
from featstore.backbones.layers import Layer, list_layers

__all__ = ["BackboneInfo", "Layer", "describe_backbone", "list_backbones", "list_layers"]
