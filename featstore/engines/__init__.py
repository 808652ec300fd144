"""Engines: a batch of uint8 pictures in, feature vectors out."""

from featstore.processes.sandbox import require_working_directory

# Before torch is imported: it ends the process if the working directory does not exist.
require_working_directory()

from featstore.engines.base import Engine, Pending  # noqa: E402
from featstore.engines.open import ENGINES, PRECISIONS, engine_for_class, open_engine  # noqa: E402
from featstore.engines.parity import EXACT, describe_excess, drift, measure_drift  # noqa: E402

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
