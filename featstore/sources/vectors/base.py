"""Interface of all files of vectors: their shape, their vectors in blocks of rows, and their other columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.errors import UsageError
from featstore.text import did_you_mean, printable, shown

VECTOR_NAMES: Final = (
    "vector", "vectors", "embedding", "embeddings", "image_embedding", "image_embeddings", "img_emb", "features",
    "feature", "descriptors", "global_descriptor", "x", "data", "arr_0",
)  # fmt: skip
"""Usual names of the array of vectors, for files that have several arrays, in order of preference; case does not
matter."""
BLOCK_BYTES: Final = 16 << 20
_LARGEST_DIMENSION: Final = 1 << 20


class VectorFile(Protocol):
    """One file of n vectors of d numbers. ``dtype``: float16, float32 or float64.

    ``columns``: the other columns by name, n values each: texts (or bytes) or numbers.
    """

    path: Path
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all vectors in order, as arrays (b, d) of about BLOCK_BYTES. Can be called again."""
        ...

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return the columns besides the vectors: for each name n values."""
        ...


def require_vectors(path: Path, shape: Sequence[int], dtype: np.dtype[Any], what: str = "the array") -> tuple[int, int]:
    """Return ``shape`` as (n, d). Raises UsageError unless the array is n vectors of floating-point numbers."""
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize > 8:
        size = " x ".join(map(str, shape)) or "one value"
        raise UsageError(
            f"{shown(path)}: {what} is {size} of {dtype}, where vectors are n x d of float16, float32 or float64"
        )
    n, d = int(shape[0]), int(shape[1])
    if not 0 < d <= _LARGEST_DIMENSION:
        raise UsageError(
            f"{shown(path)}: {what} has vectors of {d:,} numbers, where 1 to {_LARGEST_DIMENSION:,} are known"
        )
    return n, d


def rows_of_block(dimension: int, dtype: np.dtype[Any]) -> int:
    """Return the number of vectors in a block of BLOCK_BYTES, at least 1."""
    return max(1, BLOCK_BYTES // (dimension * dtype.itemsize))


def choose(path: Path, names: Sequence[str], fits: Callable[[str], bool], asked: str | None) -> str:
    """Return the name of the array of vectors.

    It is ``asked`` if given, else the only array that ``fits``, else an array that fits and has a usual name. Raises
    UsageError if there is no such array.
    """
    if asked is not None:
        if asked not in names:
            raise UsageError(
                f"{shown(path)}: has no {printable(asked)!r}; it has {_some(names)}{did_you_mean(asked, names)}"
            )
        return asked
    fitting = [name for name in names if fits(name)]
    if len(fitting) == 1:
        return fitting[0]
    usual = {name.rpartition("/")[2].lower(): name for name in reversed(fitting)}
    for name in VECTOR_NAMES:
        if name in usual:
            return usual[name]
    raise UsageError(f"{shown(path)}: --array has to name the vectors among {_some(fitting or names)}")


def _some(names: Sequence[str]) -> str:
    return (", ".join(map(printable, names[:10])) or "nothing") + (f", ... ({len(names):,})" if len(names) > 10 else "")
