"""Backbones: networks without their last layer, which turn pictures into feature vectors.

Importing this package imports torch. The rest of featstore imports this package only when a backbone is needed.
"""

from featstore.processes.sandbox import require_working_directory

# Check the working directory before importing torch: if the directory is missing, torch ends the process.
require_working_directory()

from featstore.backbones.base import Backbone  # noqa: E402
from featstore.backbones.catalogue import BackboneInfo, describe_backbone, list_backbones  # noqa: E402
from featstore.backbones.load import (  # noqa: E402
    backbone_name,
    exists,
    has_text,
    known_weights,
    own_function,
)
from featstore.backbones.open import load_backbone, load_recorded, names_model  # noqa: E402
from featstore.backbones.plugins import OwnBackbone  # noqa: E402

__all__ = [
    "Backbone",
    "BackboneInfo",
    "OwnBackbone",
    "backbone_name",
    "describe_backbone",
    "exists",
    "has_text",
    "known_weights",
    "list_backbones",
    "load_backbone",
    "load_recorded",
    "names_model",
    "own_function",
]
