"""FAISS indexes addressed by row position, their files, and exact search. Only this module imports faiss.

An index here is always an ``IndexIDMap`` around the actual index. Its file gives 64-bit row ids to anyone who opens it
with ``faiss.read_index``, while featstore addresses the inner index by position, so that filters are bitmaps. The
number of OpenMP threads is set for one call, then restored. In a forked child FAISS's OpenMP threads are missing and a
parallel region would hang (faiss issue 5206), so a forked child searches with one thread.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.indexes.blocks import Floats
from featstore.indexes.files.faiss_file import check_structure, name_for_faiss, reason_of
from featstore.indexes.files.structure import chain_fault, effort_fault, graph_fault, lists_fault, part_fault

faiss: Any = _faiss  # not type-checked, because FAISS's type stubs lack methods
VERSION: str = faiss.__version__
# Scan lists of 4-bit codes query by query. By default, FAISS scans list by list for a batch of queries, which took 1.0
# to 1.4 times as long; the results are equal.
_QUERY_BY_QUERY = 11
# Largest number of queries per thread in one call, because FAISS first builds the lookup tables of all queries in the
# call. With 2,970 queries per thread, a search took 1.13 times as long as with this number.
_AT_ONCE = 1536
_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


_AS_THEY_ARE = contextlib.nullcontext()


def _threads(count: int | None) -> contextlib.AbstractContextManager[None]:
    before = faiss.omp_get_max_threads()
    wanted = 1 if _forked else count or before
    return _AS_THEY_ARE if wanted == before else _Threads(wanted, before)


class _Threads(contextlib.AbstractContextManager[None]):
    """Context manager that sets the number of OpenMP threads; a microsecond faster than contextlib.contextmanager."""

    def __init__(self, wanted: int, before: int) -> None:
        self._wanted, self._before = wanted, before

    def __enter__(self) -> None:
        faiss.omp_set_num_threads(self._wanted)

    def __exit__(self, *error: object) -> None:
        faiss.omp_set_num_threads(self._before)


def knn(queries: Floats, base: Floats, k: int, inner_product: bool, threads: int | None = None) -> tuple[Floats, Any]:
    """Return exact neighbours of ``queries`` (q, d) in ``base`` (n, d): distances (q, k) and positions (q, k), -1 for
    none.

    Distances are inner products, descending, or squared Euclidean distances, ascending.
    """
    metric = faiss.METRIC_INNER_PRODUCT if inner_product else faiss.METRIC_L2
    with _threads(threads):
        distances, positions = faiss.knn(queries, base, k, metric)
    return distances, positions


class VectorIndex:
    """A FAISS index of n vectors of d dimensions, addressed by position; ``mapped``: memory-mapped and read-only."""

    def __init__(self, outer: Any, mapped: bool = False) -> None:
        self._outer = outer
        self._inner = faiss.downcast_index(outer.index)
        self._dimension = int(outer.d)
        self.mapped = mapped
        for part in self._parts():
            if isinstance(part, faiss.IndexIVFFastScan):
                part.implem = _QUERY_BY_QUERY

    @classmethod
    def create(cls, factory: str, dimension: int, inner_product: bool, *, seed: int, construction: int) -> VectorIndex:
        """Return an empty index for a FAISS factory string; ``construction``: HNSW's efConstruction."""
        metric = faiss.METRIC_INNER_PRODUCT if inner_product else faiss.METRIC_L2
        try:
            index = cls(faiss.IndexIDMap(faiss.index_factory(dimension, factory, metric)))
        except RuntimeError as error:
            raise UsageError(f"FAISS cannot make {factory!r} of {dimension} dimensions: {reason_of(error)}") from None
        for part in index._parts():
            if isinstance(part, faiss.IndexHNSW):
                part.hnsw.efConstruction = construction
                part.hnsw.rng = faiss.RandomGenerator(seed)
            if isinstance(part, faiss.IndexIVF):
                part.cp.seed = seed
        return index

    def _parts(self) -> list[Any]:
        """The inner index and all indexes nested in it, downcast to their FAISS classes."""
        parts, todo = [], [self._inner]
        while todo:
            part = faiss.downcast_index(todo.pop())
            parts.append(part)
            for name in ("base_index", "refine_index", "storage", "index"):
                if (child := getattr(part, name, None)) is not None:
                    todo.append(child)
        return parts

    def __len__(self) -> int:
        return int(self._outer.ntotal)

    @property
    def dimension(self) -> int:
        """Dimension d of the vectors."""
        return self._dimension

    @property
    def inner_product(self) -> bool:
        """Whether distances are inner products; otherwise they are squared Euclidean."""
        return bool(self._outer.metric_type == faiss.METRIC_INNER_PRODUCT)

    @property
    def exact(self) -> bool:
        """Whether a search compares the query with every vector at full precision."""
        return isinstance(self._inner, faiss.IndexFlat)

    @property
    def ids(self) -> NDArray[np.int64]:
        """A copy of the ids (n,), in the order of their positions."""
        return np.asarray(faiss.vector_to_array(self._outer.id_map), np.int64)

    def train(self, vectors: Floats, threads: int | None = None) -> None:
        """Train quantizers, clusters and linear transforms on ``vectors`` (m, d), if the index needs training."""
        if self._outer.is_trained:
            return
        with _threads(threads):
            for part in self._parts() if self.inner_product else []:
                if isinstance(part, faiss.IndexPreTransform):
                    _train_uncentred(part, vectors)
            self._outer.train(vectors)

    def add(self, vectors: Floats, ids: NDArray[np.int64], threads: int | None = None) -> None:
        """Append ``vectors`` (m, d) to the FAISS index under the ids ``ids`` (m,)."""
        if self.mapped:
            raise FeatstoreError("a memory-mapped index cannot grow; open it with mmap=False")
        with _threads(threads):
            self._outer.add_with_ids(vectors, np.ascontiguousarray(ids, np.int64))

    def delete(self, positions: NDArray[np.bool_]) -> None:
        """Delete the rows marked in the mask ``positions`` (n,); later rows move up. Only for an ``exact`` index."""
        if self.mapped or not self.exact:
            raise FeatstoreError("rows can be deleted from an exact index in memory only")
        # FAISS's IndexIDMap selects rows by id: convert positions to ids.
        self._outer.remove_ids(faiss.IDSelectorBatch(self.ids[positions]))

    def reserve(self, rows: int) -> None:
        """Allocate memory for ``rows`` encoded vectors at once: repeated doubling would need three times the memory."""
        for part in self._parts():
            if isinstance(part, faiss.IndexFlatCodes) and not self.mapped and int(part.ntotal) < rows:
                held = part.codes.size()
                part.codes.resize(rows * int(part.code_size))
                part.codes.resize(held)

    @property
    def effort(self) -> dict[str, float]:
        """Search parameters that trade speed for recall (efSearch, nprobe, k_factor); the FAISS file contains them."""
        found: dict[str, float] = {}
        for part in self._parts():
            if isinstance(part, faiss.IndexRefine):
                found["k_factor"] = float(part.k_factor)
            elif isinstance(part, faiss.IndexIVF):
                found["nprobe"] = int(part.nprobe)
            elif isinstance(part, faiss.IndexHNSW):
                found["efSearch"] = int(part.hnsw.efSearch)
        return found

    @effort.setter
    def effort(self, value: dict[str, float]) -> None:
        for part in self._parts():
            if isinstance(part, faiss.IndexRefine) and "k_factor" in value:
                part.k_factor = float(value["k_factor"])
            elif isinstance(part, faiss.IndexIVF) and "nprobe" in value:
                part.nprobe = int(value["nprobe"])
            elif isinstance(part, faiss.IndexHNSW) and "efSearch" in value:
                part.hnsw.efSearch = int(value["efSearch"])

    def search(
        self,
        queries: Floats,
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        threads: int | None = None,
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Return distances and positions (q, k; -1 for none) of the nearest vectors. ``allowed`` (n,): mask or None."""
        parameters = None
        if allowed is not None:
            bitmap = np.packbits(allowed, bitorder="little")
            # In graphs and lists, FAISS also visits rows that are not allowed: widen the search to visit enough rows.
            widen = len(allowed) / max(1, int(allowed.sum()))
            parameters = self._filtered(self._inner, faiss.IDSelectorBitmap(bitmap), widen)
        # FAISS reads the queries by address: contiguous float32 rows of d numbers.
        rows = np.ascontiguousarray(queries, np.float32)
        if rows.shape[1:] != (self._dimension,) or k < 1:
            raise UsageError(f"{k} neighbours of {rows.shape} in an index of {self._dimension} dimensions")
        distances, positions = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int64)
        # A single query uses one thread; starting more threads would only cost time.
        with _threads(1 if len(rows) == 1 else threads):
            if len(rows) <= _AT_ONCE:
                self._search(rows, distances, positions, k, parameters)
                return distances, positions
            most = len(rows) if self.exact else _AT_ONCE * (threads or faiss.omp_get_max_threads())
            parts = -(-len(rows) // most)
            split = (np.array_split(array, parts) for array in (rows, distances, positions))
            for some, near, places in zip(*split, strict=True):
                self._search(some, near, places, k, parameters)
        return distances, positions

    def _search(self, rows: Floats, distances: Floats, positions: NDArray[np.int64], k: int, parameters: Any) -> None:
        # Skip the checks of FAISS's Python ``search``: they take a twentieth of the time of a single query.
        near, places = faiss.swig_ptr(distances), faiss.swig_ptr(positions)
        self._inner.search_c(len(rows), faiss.swig_ptr(rows), k, near, places, parameters)

    def _filtered(self, part: Any, selector: Any, widen: float) -> Any:
        part = faiss.downcast_index(part)
        if isinstance(part, faiss.IndexRefine):
            base = self._filtered(part.base_index, selector, widen)
            return faiss.IndexRefineSearchParameters(k_factor=part.k_factor, base_index_params=base)
        if isinstance(part, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=self._filtered(part.index, selector, widen))
        if isinstance(part, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=min(part.nlist, int(part.nprobe * widen) + 1), sel=selector)
        if isinstance(part, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=int(part.hnsw.efSearch * widen) + 1, sel=selector)
        return faiss.SearchParameters(sel=selector)

    def reconstruct(self, positions: NDArray[np.int64]) -> Floats:
        """Return the stored vectors (m, d) at ``positions`` (m,), decoded if the index quantizes vectors."""
        vectors: Floats = self._inner.reconstruct_batch(np.ascontiguousarray(positions, np.int64))
        return vectors

    def write(self, path: Path) -> None:
        """Write the FAISS file ``path``. Use a temporary name, because writing is neither atomic nor synced to disk."""
        try:
            with open(path, "wb") as file:
                faiss.write_index(self._outer, name_for_faiss(path, file.fileno()))
        except (RuntimeError, OSError) as error:
            raise FeatstoreError(f"{path}: FAISS could not write the index ({reason_of(error)})") from None

    @classmethod
    def read(cls, path: Path, rows: int, dimension: int, *, mmap: bool) -> VectorIndex:
        """Open a FAISS file; raise DamagedError if it is damaged or its shape is not (``rows``, ``dimension``)."""
        check_structure(path, rows, dimension)
        try:
            with open(path, "rb") as file:
                flags = faiss.IO_FLAG_MMAP_IFC if mmap else faiss.IO_FLAG_READ_ONLY
                outer = faiss.read_index(name_for_faiss(path, file.fileno()), flags)
        except (RuntimeError, MemoryError) as error:
            raise DamagedError(f"{path}: FAISS cannot read it ({reason_of(error)})") from None
        if (
            not isinstance(outer, faiss.IndexIDMap)
            or {outer.ntotal, outer.index.ntotal} != {rows}
            or outer.d != dimension
        ):
            raise DamagedError(f"{path}: is not the index of {rows:,} x {dimension} that its side file describes")
        index = cls(outer, mmap)
        if (fault := index.fault()) is not None:
            raise DamagedError(f"{path}: {fault}; build the index again")
        return index

    def fault(self) -> str | None:
        """Describe an error that would make FAISS read outside the memory of this index; None if there is none.

        Checks links, lists and sizes of every part, in one pass over the links; the vectors are not read.
        """
        rows = len(self)
        if (fault := effort_fault(self.effort, rows)) is not None:
            return fault
        for part in self._parts():
            if int(part.ntotal) != rows:
                return "its parts do not have the same number of rows"
            lists: Any = faiss.downcast_InvertedLists(part.invlists) if isinstance(part, faiss.IndexIVF) else None
            if (fault := part_fault(part, rows, lists)) is not None:
                return fault
            if isinstance(part, faiss.IndexHNSW):
                graph = part.hnsw
                fault = graph_fault(
                    rows,
                    _view(graph.neighbors, np.int32),
                    _view(graph.offsets, np.uint64),
                    _view(graph.levels, np.int32),
                    _view(graph.cum_nneighbor_per_level, np.int32),
                    int(graph.entry_point),
                    int(graph.max_level),
                )
            elif isinstance(part, faiss.IndexIVF):
                if int(lists.nlist) != int(part.nlist) or int(part.quantizer.ntotal) != int(part.nlist):
                    return "its lists and their centres are not of one number"
                if (fault := part_fault(faiss.downcast_index(part.quantizer), int(part.nlist))) is not None:
                    return fault
                fault = lists_fault(rows, (_positions(lists, place) for place in range(int(part.nlist))))
            elif isinstance(part, faiss.IndexPreTransform):
                fault = chain_fault(int(part.d), int(part.index.d), list(_transforms(part.chain)))
            if fault is not None:
                return fault
        return None


def _view(vector: Any, dtype: type) -> NDArray[Any]:
    """Return the elements of a C++ vector without copying."""
    if not vector.size():
        return np.zeros(0, dtype)
    return np.asarray(faiss.rev_swig_ptr(vector.data(), vector.size()), dtype)


def _positions(lists: Any, place: int) -> NDArray[np.int64]:
    size = lists.list_size(place)
    return np.asarray(faiss.rev_swig_ptr(lists.get_ids(place), size), np.int64) if size else np.zeros(0, np.int64)


def _train_uncentred(part: Any, vectors: Floats) -> None:
    """Train the PCA transforms in ``part`` on ``vectors`` (m, d), without subtracting the mean vector.

    Subtracting the mean would change inner products by more than a constant, and thus the ranking.
    """
    for place in range(part.chain.size()):
        transform = faiss.downcast_VectorTransform(part.chain.at(place))
        if isinstance(transform, faiss.PCAMatrix):
            transform.train(vectors)
            faiss.copy_array_to_vector(np.zeros(transform.d_out, np.float32), transform.b)
        vectors = transform.apply(vectors) if place + 1 < part.chain.size() else vectors


def _transforms(chain: Any) -> Iterator[tuple[int, int, int, int | None]]:
    """Yield (dimensions in, dimensions out, matrix size, bias size) of each linear transform, the only kind that
    featstore writes."""
    for place in range(chain.size()):
        one = faiss.downcast_VectorTransform(chain.at(place))
        linear = isinstance(one, faiss.LinearTransform)
        bias = one.b.size() if linear and one.have_bias else None
        yield int(one.d_in), int(one.d_out), one.A.size() if linear else -1, bias
