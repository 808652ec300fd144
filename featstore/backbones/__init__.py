"""Networks that turn pictures into feature vectors, cut at their penultimate layer.

Importing this package loads torch; the rest of featstore loads it only when a backbone is needed.
"""

from featstore.processes.sandbox import require_working_directory

# Before torch is imported: it ends the process if the working directory does not exist.
require_working_directory()

from featstore.backbones.base import Backbone  # noqa: E402
from featstore.backbones.catalogue import BackboneInfo, list_backbones  # noqa: E402
from featstore.backbones.load import backbone_name, known_weights, load_backbone  # noqa: E402

__all__ = ["Backbone", "BackboneInfo", "backbone_name", "known_weights", "list_backbones", "load_backbone"]
