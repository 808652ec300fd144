"""Engines: a batch of uint8 pictures in, feature vectors out."""

from featstore.engines.base import Engine, Pending
from featstore.engines.open import ENGINES, PRECISIONS, engine_for_class, open_engine
from featstore.engines.parity import EXACT, describe_excess, drift, measure_drift

__all__ = [
    "ENGINES",
    "EXACT",
    "PRECISIONS",
    "Engine",
    "Pending",
    "describe_excess",
    "drift",
    "measure_drift",
    "open_engine",
    "engine_for_class",
]
