"""Activations of single units of the network, read from the stored vectors.

A unit of the network is an element of a vector or, if a store has activation maps (pool "none"), a channel; its
activation is then the maximum over the map, or over the tokens. Row ranges of the plan, which are also called units
(plan.Unit), are not meant here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.store.feature_store import FeatureStore
from featstore.store.identity import Identity
from featstore.store.shards import Shard

_BYTES: Final = 16 << 20
"""Bytes of stored vectors to read at once."""


def unit_count(identity: Identity) -> int:
    """Return the number of units of the network: channels of the maps, or elements of a vector."""
    shape = identity.shape
    return shape[0 if len(shape) == 3 else -1] if shape else identity.dimension


def grid_of(identity: Identity) -> tuple[int, int] | None:
    """Return (rows, columns) of the activation maps; None if the vectors are no maps of channels."""
    return (identity.shape[1], identity.shape[2]) if len(identity.shape) == 3 else None


def activations(store: FeatureStore, units: Sequence[int]) -> NDArray[np.float32]:
    """Return the activations (n, m) of ``units`` for all n rows of ``store``.

    The vectors are read in blocks, and their memory pages are released after each block, so only the result
    and one block are in memory. ``units`` must be valid.
    """
    found = np.empty((len(store), len(units)), np.float32)
    for shard, places, offsets in store._live.parts(None):
        read = np.empty((len(shard.ids), len(units)), np.float32)
        for start, block in _blocks(shard):
            read[start : start + len(block)] = _activations_of(block, store.identity, units)
        found[places] = read[offsets]
    return found


def activation_cells(store: FeatureStore, unit: int, rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return the cell (row, column) of the map at which ``unit`` has its maximum, for each of ``rows`` of ``store``.

    The store must have maps of channels (see grid_of). The first cell in reading order counts if several are equal.
    """
    _, height, width = store.identity.shape
    cells: list[tuple[int, int]] = []
    for block in store.blocks(np.asarray(rows, np.int64), block_rows=64):
        maps = np.asarray(block)[:, unit * height * width : (unit + 1) * height * width]
        cells += [divmod(at, width) for at in maps.argmax(axis=1).tolist()]
    return cells


def mean_vectors(store: FeatureStore, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two mean vectors (d,) of ``store``: that of all rows, and that of the rows in the mask ``chosen`` (n,).

    The vectors are read in blocks. A mean contains NaN or infinity if one of the averaged vectors does.
    """
    every, some = np.zeros(store.dimension), np.zeros(store.dimension)
    for shard, places, offsets in store._live.parts(None):
        live, mask = np.zeros((2, len(shard.ids)), np.bool_)
        live[offsets] = True
        mask[offsets] = chosen[places]
        for start, block in _blocks(shard):
            rows = block.astype(np.float32, copy=False)
            here = slice(start, start + len(block))
            with np.errstate(invalid="ignore"):
                every += (rows if live[here].all() else rows[live[here]]).sum(axis=0, dtype=np.float64)
                some += rows[mask[here]].sum(axis=0, dtype=np.float64)
    return every / len(store), some / np.count_nonzero(chosen)


def by_unit(values: NDArray[np.float64], identity: Identity) -> NDArray[np.float64]:
    """Return the sum (units,) of ``values`` (d,) over the elements of each unit of the network.

    A unit of a store without maps has one element; a channel has one for each cell or token.
    """
    if not identity.shape:
        return values
    axes = (1, 2) if len(identity.shape) == 3 else tuple(range(len(identity.shape) - 1))
    return np.asarray(values.reshape(identity.shape).sum(axis=axes))


def _blocks(shard: Any) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield (first row, vectors (b, d)) of a shard in blocks; release the memory pages of each block afterwards."""
    n, dimension = shard.features.shape
    step = max(1, _BYTES // (dimension * shard.features.itemsize))
    for start in range(0, n, step):
        yield start, shard.features[start : start + step]
        if isinstance(shard, Shard):
            shard.release()


def _activations_of(block: NDArray[Any], identity: Identity, units: Sequence[int]) -> NDArray[np.float32]:
    """Return the activations (b, m) of ``units`` for the vectors ``block`` (b, d)."""
    shape = identity.shape
    if not shape:
        return block[:, list(units)].astype(np.float32)
    if len(shape) == 3:
        maps = block.reshape(len(block), shape[0], math.prod(shape[1:]))
        return np.stack([maps[:, unit].astype(np.float32).max(axis=1) for unit in units], axis=1)
    tokens = block.reshape(len(block), -1, shape[-1])
    return np.stack([tokens[:, :, unit].astype(np.float32).max(axis=1) for unit in units], axis=1)
