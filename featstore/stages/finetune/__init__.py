"""Fine-tuning: train the last layers of a network with an attached head on the labelled pictures of a store."""

from featstore.stages.finetune.events import Event
from featstore.stages.finetune.features import extract_features
from featstore.stages.finetune.places import require_apart, unfinished
from featstore.stages.finetune.report import Comparison, FinetuneReport, Tuned
from featstore.stages.finetune.stage import finetune

__all__ = [
    "Comparison",
    "Event",
    "FinetuneReport",
    "Tuned",
    "extract_features",
    "finetune",
    "require_apart",
    "unfinished",
]
