"""The indexes that tests.slow.peers compares, with one interface; other libraries are set up as in their
documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LINKS = 32
CONSTRUCTION = 200
GOALS = (0.95, 0.99)
PEERS = ("hnswlib", "usearch-f16", "usearch-bf16", "faiss-hnsw")
K = 10


class Contender(Protocol):
    """An index of vectors (n, d), searched for K neighbours.

    ``effort``: search parameter such as efSearch, which is increased for more recall; None without such a
    parameter.
    """

    effort: int | None

    def build(self, base: NDArray[np.float32], groups: NDArray[np.int32]) -> None: ...

    def save(self, path: Path) -> None: ...

    def load(self, path: Path, dimension: int) -> None: ...

    def search(self, queries: NDArray[np.float32], threads: int) -> NDArray[np.int64]: ...


class Hnswlib:
    """The HNSW graph of the library hnswlib, with float32 vectors."""

    effort: int | None = 10

    def __init__(self, metric: str) -> None:
        self._space = "l2" if metric == "l2" else "ip"
        self._index: Any = None
        self._set: int | None = None

    def build(self, base: NDArray[np.float32], groups: NDArray[np.int32]) -> None:
        import hnswlib

        self._index = hnswlib.Index(space=self._space, dim=base.shape[1])
        self._index.init_index(len(base), ef_construction=CONSTRUCTION, M=LINKS, random_seed=0)
        self._index.add_items(base)

    def save(self, path: Path) -> None:
        self._index.save_index(str(path))

    def load(self, path: Path, dimension: int) -> None:
        import hnswlib

        self._index = hnswlib.Index(space=self._space, dim=dimension)
        self._index.load_index(str(path))

    def search(self, queries: NDArray[np.float32], threads: int) -> NDArray[np.int64]:
        if self._set != self.effort:
            self._index.set_ef(self.effort)
            self._set = self.effort
        labels, _ = self._index.knn_query(queries, K, num_threads=threads)
        return np.asarray(labels, np.int64)


class Usearch:
    """The HNSW graph of usearch, with vectors stored as ``dtype``.

    Processors with AVX512-BF16 compare "bf16" vectors twice as fast as "f16" vectors, but less precisely.
    """

    effort: int | None = 10

    def __init__(self, metric: str, dtype: str) -> None:
        self._metric, self._dtype = "l2sq" if metric == "l2" else "ip", dtype
        self._index: Any = None
        self._set: int | None = None

    def build(self, base: NDArray[np.float32], groups: NDArray[np.int32]) -> None:
        from usearch.index import Index

        self._index = Index(
            ndim=base.shape[1], metric=self._metric, dtype=self._dtype, connectivity=LINKS, expansion_add=CONSTRUCTION
        )
        self._index.add(np.arange(len(base)), base)

    def save(self, path: Path) -> None:
        self._index.save(str(path))

    def load(self, path: Path, dimension: int) -> None:
        from usearch.index import Index

        self._index = Index.restore(str(path))

    def search(self, queries: NDArray[np.float32], threads: int) -> NDArray[np.int64]:
        if self._set != self.effort:
            self._index.expansion_search = self.effort
            self._set = self.effort
        found = self._index.search(queries, K, threads=threads)
        return np.asarray(found.keys, np.int64).reshape(len(queries), -1)


class FaissIndex:
    """A FAISS index of float32 vectors: the graph "HNSW32", or "Flat", which is exact search."""

    def __init__(self, metric: str, factory: str) -> None:
        import faiss

        self._kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        self._factory = factory
        self._index: Any = None
        self._threads = 0
        self.effort: int | None = None if factory == "Flat" else 10

    def build(self, base: NDArray[np.float32], groups: NDArray[np.int32]) -> None:
        import faiss

        self._index = faiss.index_factory(base.shape[1], self._factory, self._kind)
        if self.effort is not None:
            self._index.hnsw.efConstruction = CONSTRUCTION
        self._index.add(base)

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self._index, str(path))

    def load(self, path: Path, dimension: int) -> None:
        import faiss

        self._index = faiss.read_index(str(path))

    def search(self, queries: NDArray[np.float32], threads: int) -> NDArray[np.int64]:
        if self._threads != threads:
            import faiss

            faiss.omp_set_num_threads(threads)
            self._threads = threads
        if self.effort is not None:
            self._index.hnsw.efSearch = self.effort
        return np.asarray(self._index.search(queries, K)[1], np.int64)


class Featstore:
    """The index that featstore chooses for the recall ``goal``; featstore tunes its search parameters on held-out
    rows."""

    effort: int | None = None

    def __init__(self, metric: str, goal: float) -> None:
        self._metric, self._goal = metric, goal
        self.index: Any = None

    def build(self, base: NDArray[np.float32], groups: NDArray[np.int32]) -> None:
        from featstore.indexes import Contract, build_contract

        rows = len(base)
        keys = (b"%d" % row for row in range(rows))
        contract = Contract(recall=self._goal, at=K)
        metric: Any = self._metric
        self.index = build_contract(base, np.arange(rows), keys, contract, metric=metric, groups=groups)

    def save(self, path: Path) -> None:
        self.index.save(path)

    def load(self, path: Path, dimension: int) -> None:
        from featstore.indexes import FeatureIndex

        self.index = FeatureIndex.open(path, mmap=False)

    def search(self, queries: NDArray[np.float32], threads: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.index.search(queries, K, threads=threads)[1]
        return found


def contenders(metric: str) -> dict[str, Callable[[], Contender]]:
    """Return, by name, a constructor for each index to compare; featstore has one index for each recall of GOALS."""
    ours = {f"featstore-{goal}": lambda goal=goal: Featstore(metric, goal) for goal in GOALS}
    return {
        **ours,
        "hnswlib": lambda: Hnswlib(metric),
        "usearch-f16": lambda: Usearch(metric, "f16"),
        "usearch-bf16": lambda: Usearch(metric, "bf16"),
        "faiss-hnsw": lambda: FaissIndex(metric, f"HNSW{LINKS}"),
        "exact": lambda: FaissIndex(metric, "Flat"),
    }
