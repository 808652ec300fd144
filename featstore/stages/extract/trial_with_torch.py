"""Like trial.py, for the decoder that needs torch: torch is imported before the process gets its limits."""

from __future__ import annotations

from featstore.decode import fast
from featstore.stages.extract.trial import try_picture

__all__ = ["fast", "try_picture"]
