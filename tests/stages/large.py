"""Make a store of 12,000 synthetic pictures, and an approximate index with a contract (a required recall)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featstore.indexes import contract
from featstore.indexes.tuning.ladder import Candidate
from featstore.stages.index import IndexReport, index
from featstore.store import FeatureStore
from tests.store import building
from tests.store.building import Pictures, plan, work

ROWS, DIMENSION = 12_000, 8
CODED = Candidate("hnsw-8", "HNSW16_SQ8", DIMENSION + 140, "efSearch", (40, 80, 160))


def vector(key: bytes, content: int) -> np.ndarray:
    """Return a random vector near (2, 0, 0, ...), or near (-2, 0, 0, ...) for keys that begin with z."""
    found = 0.4 * np.random.default_rng((content, *key)).normal(size=DIMENSION)
    found[0] += -2 if key.startswith(b"z") else 2
    return found.astype(np.float32)


def pictures(count: int, prefix: str = "") -> Pictures:
    """Return a source of ``count`` pictures with a column "number"; one picture in 20 has the label "rare"."""
    keys = [f"{prefix}{number:05d}".encode() for number in range(count)]
    source = Pictures({key: number for number, key in enumerate(keys)}, chunk_rows=1 << 16)
    source.labels = {key: "rare" if number % 20 == 3 else "common" for number, key in enumerate(keys)}
    source.metadata = {"number": {key: number for number, key in enumerate(keys)}}
    return source


def extend(path: Path, source: Pictures) -> FeatureStore:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "vector", vector)
        patch.setattr(building, "D", DIMENSION)
        plan(path, source, unit_rows=1 << 16)
        work(path, source, batch=8192)
    return FeatureStore.open(path)


def indexed(path: Path) -> IndexReport:
    """Build an HNSW index that holds the vectors of the store as 8-bit codes; the required recall is 0.9."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ladder", lambda rows, dimension, metric: [CODED])
        return index(path, recall=0.9)
