"""An engine that several threads share."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.engines.base import Engine, Pending


class InTurn:
    """Engine that several threads may call: each call waits until the call of another thread has returned.

    ``engine``: an engine on the CPU, whose batches finish without a further call.
    """

    def __init__(self, engine: Engine) -> None:
        self.name, self.precision = engine.name, engine.precision
        self.dimension, self.in_flight = engine.dimension, engine.in_flight
        self._engine, self._turn = engine, threading.Lock()

    def submit(self, pictures: NDArray[np.uint8]) -> Pending:
        """Start computing the features of the RGB pictures (n, h, w, 3)."""
        with self._turn:
            return self._engine.submit(pictures)

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""
        with self._turn:
            return self._engine(pictures)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of the features."""
        return self._engine.provenance()
