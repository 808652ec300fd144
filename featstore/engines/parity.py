"""Engine drift: the difference between the features of two engines for the same pictures.

Differences are measured in units of the features' standard deviation over pictures. The cosine alone is not conclusive:
all features share a large mean, so even two different pictures can have a cosine of 0.997.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featstore.engines.base import Engine
from featstore.errors import UsageError

EXACT: float = 1e-3
"""Largest difference allowed between an exact engine and plain torch, in standard deviations of the features."""

BOUNDS: Final[Mapping[str, tuple[str, float]]] = {
    "fp32": ("greatest_difference", EXACT),
    "fp16": ("rms_difference", 0.1),
    "bf16": ("rms_difference", 0.5),
    "int8-s16": ("rms_difference", 0.5),
}
"""Map from precision class to (name of a figure that ``drift`` returns, largest accepted value of this figure).

The figure is the difference from plain torch. If the features of two machines each differ from plain torch by at most
the bound, they differ from each other by at most twice the bound. README.md explains the bounds.
"""


def drift(features: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
    """Compare ``features`` (n, d) with ``reference`` (n, d) of the same n >= 2 pictures.

    * ``spread``: standard deviation over pictures, root mean square over the dimensions;
    * ``greatest_difference`` and ``rms_difference``: maximum and root mean square over all entries, in units of
      ``spread``;
    * ``cosine_mean`` and ``cosine_min``: of the cosine between the two vectors of each picture;
      ``centred_cosine_min``: the minimum after subtracting the reference's mean from all vectors;
    * ``neighbour_agreement``: share of pictures whose nearest other picture, by cosine, is the same in both arrays.

    Raises UsageError for shapes that do not match.
    """
    if features.shape != reference.shape or features.ndim != 2 or len(features) < 2:
        raise UsageError(
            f"drift needs features of the same two or more pictures, not {features.shape} and {reference.shape}"
        )
    ours, theirs = features.astype(np.float64), reference.astype(np.float64)
    spread = float(np.sqrt(theirs.var(axis=0).mean()))
    scale = spread or 1.0
    difference = np.abs(ours - theirs)
    mean = theirs.mean(axis=0)
    cosine, centred = _cosine(ours, theirs), _cosine(ours - mean, theirs - mean)
    return {
        "pictures": float(len(ours)),
        "spread": spread,
        "greatest_difference": float(difference.max()) / scale,
        "rms_difference": float(np.sqrt((difference**2).mean())) / scale,
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "centred_cosine_min": float(centred.min()),
        "neighbour_agreement": float((_nearest(ours) == _nearest(theirs)).mean()),
    }


def describe_excess(precision: str, measured: Mapping[str, float]) -> str:
    """Return a text if the drift ``measured`` exceeds the bound of the precision class ``precision``, otherwise ""."""
    name, bound = BOUNDS[precision]
    if measured[name] <= bound:
        return ""
    typical = "typically " if name == "rms_difference" else ""
    return f"{typical}{measured[name]:.2g} standard deviations from plain torch where {bound:g} are allowed"


def measure_drift(
    engine: Engine, reference: Engine, pictures: NDArray[np.uint8], *, batch: int = 8
) -> dict[str, float]:
    """Return the ``drift`` of ``engine`` from ``reference`` on the same pixels, (n, h, w, 3) uint8 with n >= 2.

    ``reference`` gets only two pictures at a time: with larger batches, plain torch and the engine together would need
    more memory than the rest of an extraction.
    """
    ours = np.concatenate([engine(block) for block in _blocks(pictures, batch)])
    theirs = np.concatenate([reference(block) for block in _blocks(pictures, 2)])
    return drift(ours, theirs)


def _blocks(pictures: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float64] = vectors / np.where(lengths == 0, 1, lengths)
    return unit


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    cosine: NDArray[np.float64] = (_unit(a) * _unit(b)).sum(axis=1)
    return cosine


def _nearest(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    unit = _unit(vectors)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.int64] = similarity.argmax(axis=1)
    return nearest
