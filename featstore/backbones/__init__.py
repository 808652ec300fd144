"""Networks that turn pictures into feature vectors, cut at their penultimate layer.

Importing this package loads torch; the rest of featstore loads it only when a backbone is needed.
"""

from featstore.backbones.base import Backbone
from featstore.backbones.catalogue import BackboneInfo, list_backbones
from featstore.backbones.load import backbone_name, known_weights, load_backbone

__all__ = ["Backbone", "BackboneInfo", "backbone_name", "known_weights", "list_backbones", "load_backbone"]
