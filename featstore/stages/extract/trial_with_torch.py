"""The trial of trial.py for the decoder that needs torch, which is loaded before the limits of the child begin to count."""

from __future__ import annotations

from featstore.decode import fast
from featstore.stages.extract.trial import try_picture

__all__ = ["fast", "try_picture"]
