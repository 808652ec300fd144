"""Engines: a batch of uint8 pictures in, feature vectors out."""

from featstore.engines.base import Engine
from featstore.engines.open import open_engine

__all__ = ["Engine", "open_engine"]
