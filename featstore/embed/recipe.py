"""The recipe of features: a backbone, the engine that runs it, and the identity that both give."""

from __future__ import annotations

from featstore.backbones import Backbone
from featstore.engines import Engine
from featstore.errors import UsageError
from featstore.store import Identity


def identity_of(backbone: Backbone, engine: Engine, dtype: str, decoder: str) -> Identity:
    """Return the identity of the features that ``engine`` makes of ``backbone`` and pictures from ``decoder``, a class."""
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype: {dtype!r} is not float32 or float16")
    return Identity(
        backbone.name,
        backbone.layer,
        backbone.dimension,
        backbone.weights_digest,
        backbone.preprocessing.to_dict(),
        decoder,
        engine.precision,
        dtype,
    )
