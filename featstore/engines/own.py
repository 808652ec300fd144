"""An engine for the user's own network; errors of the network are reported in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.backbones.plugins import code_of
from featstore.engines.base import Engine, Pending


@dataclass(frozen=True)
class _Told:
    """Features that the user's network (from the function ``spec``) is computing; errors of the network become
    UsageError.
    """

    pending: Pending
    spec: str

    def result(self) -> NDArray[np.float32]:
        """Wait for the features (n, d); raises UsageError if the network failed."""
        with code_of(self.spec):
            return self.pending.result()

    def done(self) -> bool:
        """Return whether the features are computed, or their computation has failed."""
        return self.pending.done()


class OwnEngine:
    """Wrapper of ``engine`` for the network of the user's function ``spec``; errors of the network become UsageError."""

    def __init__(self, engine: Engine, spec: str) -> None:
        self.name, self.precision = engine.name, engine.precision
        self.dimension, self.in_flight = engine.dimension, engine.in_flight
        self.device = getattr(engine, "device", "cpu")
        self._engine, self._spec = engine, spec

    def submit(self, pictures: NDArray[np.uint8]) -> Pending:
        """Start computing the features of the RGB pictures (n, h, w, 3)."""
        with code_of(self._spec):
            return _Told(self._engine.submit(pictures), self._spec)

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3); raises UsageError if the network fails."""
        with code_of(self._spec):
            return self._engine(pictures)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of the features."""
        return self._engine.provenance()
