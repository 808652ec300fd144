"""open_engine: from a backbone to something that runs."""

from __future__ import annotations

from featstore.backbones import Backbone
from featstore.engines.base import Engine
from featstore.engines.plain import PlainEngine
from featstore.engines.shared import resolve_device
from featstore.errors import UsageError

ENGINES = ("torch",)


def open_engine(backbone: Backbone, *, engine: str = "torch", device: str = "auto") -> Engine:
    """Return the ``engine`` of that name for ``backbone`` on ``device``; raise UsageError for what does not exist."""
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")
    return PlainEngine(backbone, resolve_device(device))
