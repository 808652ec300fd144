"""What an engine is."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """A network ready to run: pictures in, features out.

    ``name``; ``precision``, the class that is part of a store's identity ("fp32" for every exact engine);
    ``dimension`` d of the features.
    """

    name: str
    precision: str
    dimension: int

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3); raise FeatstoreError where that fails."""
        ...

    def provenance(self) -> dict[str, Any]:
        """Return, as JSON types, what computed the features: engine, device, threads, library versions."""
        ...
