"""Engines: a batch of uint8 pictures in, feature vectors out."""

from featstore.engines.base import Engine, Pending
from featstore.engines.open import ENGINES, PRECISIONS, open_engine, to_go_on
from featstore.engines.parity import EXACT, beyond_bound, drift, measure_drift

__all__ = [
    "ENGINES",
    "EXACT",
    "PRECISIONS",
    "Engine",
    "Pending",
    "beyond_bound",
    "drift",
    "measure_drift",
    "open_engine",
    "to_go_on",
]
