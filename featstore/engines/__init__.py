"""Engines, which compute feature vectors from batches of uint8 pictures."""

from featstore.processes.sandbox import require_working_directory

# Check the working directory before importing torch: if the directory is missing, torch ends the process.
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
