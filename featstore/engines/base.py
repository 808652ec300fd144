"""What an engine is, and how several batches are had in flight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Pending(Protocol):
    """Features that are being computed; a concurrent.futures.Future is one."""

    def result(self) -> NDArray[np.float32]:
        """Wait, and return the features (n, d); raise what computing them raised. May be called again."""
        ...

    def done(self) -> bool:
        """Return whether the features, or the error, are there."""
        ...


class Engine(Protocol):
    """A network ready to run: pictures in, features out. One thread at a time may call it.

    ``name``; ``precision``, the class that is part of a store's identity ("fp32" for every exact engine);
    ``dimension`` d of the features; ``in_flight``, the number of batches that should be submitted before the
    first is waited for, so that the device has no gap (1: an engine that computes in ``submit`` itself).
    """

    name: str
    precision: str
    dimension: int
    in_flight: int

    def submit(self, pictures: NDArray[np.uint8]) -> Pending:
        """Begin computing the features of the RGB pictures (n, h, w, 3).

        ``pictures`` may be changed as soon as this returns. Batches finish in the order in which they were
        submitted; waiting happens here when more than ``in_flight`` are under way.
        """
        ...

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3); raise FeatstoreError where that fails."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return, as JSON types, what computed the features: engine, device, threads, library versions."""
        ...


@dataclass(frozen=True)
class Finished:
    """Features that are there already."""

    features: NDArray[np.float32]

    def result(self) -> NDArray[np.float32]:
        """Return the features (n, d)."""
        return self.features

    def done(self) -> bool:
        """Return True."""
        return True


class Immediate(ABC):
    """Mixin for engines that compute in the caller's thread: ``submit`` is the call itself."""

    in_flight = 1

    @abstractmethod
    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""

    def submit(self, pictures: NDArray[np.uint8]) -> Finished:
        """Compute the features now."""
        return Finished(self(pictures))
