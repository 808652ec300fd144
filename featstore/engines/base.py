"""The interfaces Engine (runs a network on batches) and Pending (result of a batch that may still be running)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Pending(Protocol):
    """Interface of features that are still being computed; concurrent.futures.Future implements it too."""

    def result(self) -> NDArray[np.float32]:
        """Wait for the features (n, d) and return them, or raise the error of the computation. May be called again."""
        ...

    def done(self) -> bool:
        """Return whether the computation has ended, with features or an error."""
        ...


class Engine(Protocol):
    """Interface of engines: an engine computes the features of pictures. Only one thread at a time may call an engine.

    ``name``; ``precision``: the precision class, which is part of a store's identity ("fp32" for every exact engine);
    ``dimension``: d of the features; ``in_flight``: number of batches to submit before waiting for the first of them,
    to keep the device busy (1 for engines that compute in ``submit``).
    """

    name: str
    precision: str
    dimension: int
    in_flight: int

    def submit(self, pictures: NDArray[np.uint8]) -> Pending:
        """Start computing the features of the RGB pictures (n, h, w, 3).

        The caller may overwrite ``pictures`` after this call. Batches finish in the order of submission. The call
        blocks while more than ``in_flight`` batches are running.
        """
        ...

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3); raise FeatstoreError on failure."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of the features as JSON types: engine, device, threads, library versions."""
        ...


@dataclass(frozen=True)
class Finished:
    """A finished Pending: the features are already computed."""

    features: NDArray[np.float32]

    def result(self) -> NDArray[np.float32]:
        """Return the features (n, d) of the batch."""
        return self.features

    def done(self) -> bool:
        """Return True: the features are already computed."""
        return True


class Immediate(ABC):
    """Mixin for engines that compute in the caller's thread: ``submit`` computes the features before it returns."""

    in_flight = 1

    @abstractmethod
    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""

    def submit(self, pictures: NDArray[np.uint8]) -> Finished:
        """Compute the features of ``pictures`` before returning; the returned Pending is already finished."""
        return Finished(self(pictures))
