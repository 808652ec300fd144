"""A nearest-neighbour index with its provenance: ids, keys, labels, identity and measured recall."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import FeatstoreError, UsageError
from featstore.files.byte_columns import ByteColumn
from featstore.indexes.blocks import Floats, Metric, PickedRows, block_rows, prepare_queries, prepared_blocks, shape_of
from featstore.indexes.exact import Best, check_queries
from featstore.indexes.files import faiss_io, pair
from featstore.indexes.recall import Recall, keeps
from featstore.indexes.rows import IndexRows, Places
from featstore.indexes.staleness import Staleness, compare
from featstore.store.features import FeatureArray, require_same
from featstore.store.identity import Identity
from featstore.store.origin import KEY


class FeatureIndex:
    """Feature vectors with 64-bit row ids, searched with FAISS; made by build_index, build_contract or open.

    Searching does not change the index and is thread-safe; ``add`` and ``remove`` are not.
    """

    def __init__(
        self, index: faiss_io.VectorIndex, tables: IndexRows, record: pair.Record, path: Path | None = None
    ) -> None:
        self._index, self._record, self._path = index, record, path
        self._dimension = index.dimension
        self._half_added = False
        self._keep(tables)

    def _keep(self, tables: IndexRows) -> None:
        self._tables = tables
        self._places = Places(tables.ids)
        self._live = None if not tables.removed.any() else ~tables.removed

    @classmethod
    def open(cls, path: str | Path, mmap: bool = True, *, check: bool = True) -> FeatureIndex:
        """Open the index that ``save`` wrote to ``path``.

        ``mmap``: map the vectors instead of loading them (``add`` loads the index if needed). ``check``: compare every
        byte with its checksum first, at disk speed; necessary for files from others, because a damaged graph would
        crash the search. Raises UsageError if there is no index, DamagedError if its files are damaged.
        """
        path = Path(path)
        return cls(*pair.load(path, mmap=mmap, check=check), path)

    def save(self, path: str | Path) -> None:
        """Write ``path`` (plain FAISS) and ``path``.featstore; an existing index is replaced atomically."""
        if self._half_added:
            raise FeatstoreError("an addition to this index failed in the middle; open it again")
        pair.save(Path(path), self._index, self._tables, self._record)
        self._path = Path(path)

    def __len__(self) -> int:
        """Number of searchable rows."""
        return len(self._tables.ids) if self._live is None else int(self._live.sum())

    def __repr__(self) -> str:
        where = "" if self._path is None else f" {str(self._path)!r}"
        return f"<FeatureIndex{where}: {len(self):,} x {self.dimension}, {self._record.factory}, {self.metric}>"

    @property
    def dimension(self) -> int:
        """Dimension d of the vectors."""
        return self._dimension

    @property
    def metric(self) -> Metric:
        """Metric: "cosine", "l2" or "ip"."""
        return self._record.metric

    @property
    def fingerprint(self) -> str:
        """Hash of the ``identity`` of the features: indexes and stores with equal hashes have comparable vectors."""
        return self._record.fingerprint

    @property
    def identity(self) -> Identity | None:
        """Identity (backbone, weights, preprocessing) of the features, None if unknown. Raises DamagedError."""
        known = {name: value for name, value in self._record.identity.items() if name != KEY}
        return Identity.from_dict(known) if known else None

    @property
    def generation(self) -> int:
        """Generation of the store when the index was built or updated; every change of rows increases this number."""
        return self._record.generation

    @property
    def recall(self) -> Recall:
        """Recall of the index (see Recall) when it was last measured."""
        return self._record.recall

    @property
    def exact(self) -> bool:
        """Whether a search compares the query with every vector at full precision, so that recall is 1."""
        return self._index.exact

    @property
    def effort(self) -> dict[str, float]:
        """Search parameters of the index that trade speed for recall: efSearch, nprobe or k_factor."""
        return self._index.effort

    @effort.setter
    def effort(self, value: Mapping[str, float]) -> None:
        self._index.effort = dict(value)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the searchable rows, ascending."""
        return self._places.ascending if self._live is None else np.sort(self._tables.ids[self._live])

    def search(
        self,
        vectors: NDArray[np.floating],
        k: int = defaults.NEIGHBOURS,
        *,
        allowed_ids: NDArray[np.integer] | None = None,
        threads: int | None = None,
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Return the neighbours of ``vectors`` (q, d), best first: scores (q, k) float32 and ids (q, k) int64.

        Scores are cosines or inner products, descending, or squared Euclidean distances ("l2"), ascending. With fewer
        than ``k`` rows, missing results have id -1 and score -inf (l2: +inf). If a graph or inverted lists return too
        few results, the query is compared with every row instead. A zero query under cosine has scores 0.
        ``allowed_ids``: search only these rows; unknown ids are ignored. If few rows are allowed, the query is compared
        with each of them, which is exact up to the quantisation of the index. ``threads``: None means OpenMP's default.
        Raises UsageError for a wrong dimension, NaN or infinity, or ``k`` below 1.
        """
        if isinstance(vectors, FeatureArray):
            require_same(self._record.identity, vectors, "the index", self.fingerprint)
        check_queries(vectors, self.dimension, k)
        queries = prepare_queries(vectors, self.metric)
        allowed = self._live
        if allowed_ids is not None:
            allowed = np.zeros(len(self._tables.ids), np.bool_)
            positions = self._places.positions(np.asarray(allowed_ids))
            allowed[positions[positions >= 0]] = True
            if self._live is not None:
                allowed &= self._live
        scores, positions = self._search(queries, k, allowed, threads)
        # Fast path for one query: scores are sorted, best first, and missing positions (-1) come last. Comparing the
        # first and last values is enough, and faster than NumPy's reductions.
        single = len(scores) == 1
        if self.metric == "cosine" and not (single and -1 <= scores.item(-1) <= scores.item(0) <= 1):
            np.minimum(np.maximum(scores, -1, out=scores), 1, out=scores)
        if not positions.size or (positions.item(-1) if single else positions.min()) >= 0:
            return scores, self._tables.ids[positions]
        ids = np.full(positions.shape, -1, np.int64)
        found = positions >= 0
        ids[found] = self._tables.ids[positions[found]]
        scores[~found] = np.inf if self.metric == "l2" else -np.inf
        return scores, ids

    def _scans(self, allowed: int) -> bool:
        """Return whether so few rows are ``allowed`` that comparing all of them is better than a filtered search."""
        few = allowed * 4 * self.dimension <= defaults.EXACT_SCAN_BYTES // 4
        return few or allowed * 10 <= len(self._tables.ids)

    def _search(
        self, queries: Floats, k: int, allowed: NDArray[np.bool_] | None, threads: int | None
    ) -> tuple[Floats, NDArray[np.int64]]:
        if self._half_added:
            raise FeatstoreError("an addition to this index failed in the middle; open it again")
        rows = len(self._tables.ids)
        if not rows or not len(queries):
            return np.zeros((len(queries), k), np.float32), np.full((len(queries), k), -1, np.int64)
        count = rows if allowed is None else int(allowed.sum())
        if allowed is not None and self._scans(count):
            return self._scan(queries, k, np.flatnonzero(allowed), threads)
        scores, positions = self._index.search(queries, k, allowed=allowed, threads=threads)
        # Not every row can be reached in a graph, and the searched inverted lists may contain too few rows. Missing
        # results are -1 at the end of a row.
        if (positions.item(-1) if len(positions) == 1 else positions[:, -1].min()) >= 0:
            return scores, positions
        short = (positions >= 0).sum(axis=1) < min(k, count)
        if short.any():
            among = np.arange(rows) if allowed is None else np.flatnonzero(allowed)
            scores[short], positions[short] = self._scan(queries[short], k, among, threads)
        return scores, positions

    def _scan(
        self, queries: Floats, k: int, positions: NDArray[np.int64], threads: int | None
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Compare the queries with the stored vector at each of ``positions``; return the ``k`` best."""
        best = Best(queries, k, self._index.inner_product, threads)
        step = block_rows(self.dimension)
        for first in range(0, len(positions), step):
            part = positions[first : first + step]
            best.offer(self._index.reconstruct(part), part)
        return best.scores, best.rows

    def _known(self, ids: NDArray[np.integer] | Sequence[int]) -> NDArray[np.int64]:
        wanted = np.asarray(ids, np.int64).reshape(-1)
        positions = self._places.positions(wanted)
        if (unknown := wanted[(positions < 0) & (wanted != -1)]).size:
            raise UsageError(f"the index has no row {unknown[0]}")
        return positions

    def keys_of(self, ids: NDArray[np.integer] | Sequence[int]) -> list[bytes]:
        """Return the keys of ``ids`` (any shape, flattened); b"" for -1. Raises UsageError for an id that was never
        added."""
        return [self._tables.keys[position] if position >= 0 else b"" for position in self._known(ids)]

    def labels_of(self, ids: NDArray[np.integer] | Sequence[int]) -> list[str | None]:
        """Return the labels of ``ids`` that the index stores; None for rows without a label."""
        return self._tables.labels_at(self._known(ids))

    def vectors_of(self, ids: NDArray[np.integer] | Sequence[int]) -> Floats:
        """Return the stored vectors (m, d) of ``ids`` (m,), decoded from codes; of length 1 if the metric is cosine."""
        positions = self._known(ids)
        if (positions < 0).any():
            raise UsageError("-1 names no row")
        return self._index.reconstruct(positions)

    def staleness(
        self, generation: int, live_ids: NDArray[np.integer], labels: Sequence[str | None] | None = None
    ) -> Staleness:
        """Return the differences between this index and a store.

        The store is given by its ``generation``, the ids ``live_ids`` (m) of its rows and their ``labels`` (m).
        """
        known = None if labels is None else self._tables.labels_at(self._places.positions(live_ids))
        return compare(self.ids, live_ids, known, labels, older=self.generation < generation)

    def _stored(self) -> tuple[PickedRows, NDArray[np.int64]]:
        """Return the vectors that the index stores, read block by block, and their ids, without removed rows."""
        positions = np.flatnonzero(~self._tables.removed)
        return PickedRows(self._index.reconstruct, positions, self._index.dimension), self._tables.ids[positions]

    def add(
        self,
        vectors: Features,
        ids: NDArray[np.integer],
        keys: ByteColumn | Iterable[bytes | str],
        *,
        labels: Sequence[str | None] | None = None,
        generation: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Append rows without rebuilding: ``vectors`` (m, d), distinct new ``ids`` (m,), ``keys`` (m).

        Quantizers and clusters are not trained again: if the new vectors are distributed differently than the old ones,
        measure recall again (contract.check_contract). ``vectors`` is read twice; the first pass checks it, so that
        invalid vectors change nothing. ``generation``: current generation of the store. Raises UsageError for an id
        that is or was in the index, wrong shapes, or NaN.
        """
        require_same(self._record.identity, vectors, "the index", self.fingerprint)
        rows, dimension = shape_of(vectors)
        new = IndexRows.of(ids, keys, labels, rows)
        if dimension != self.dimension:
            raise UsageError(f"vectors have {dimension} dimensions, the index {self.dimension}; use the same backbone")
        known = self._places.positions(new.ids) >= 0
        if known.any():
            raise UsageError(f"row {new.ids[known][0]} is in the index already; ids are never used again")
        for _ in prepared_blocks(vectors, self.metric):
            pass
        self._load_whole()
        self._half_added = True
        for start, block in prepared_blocks(vectors, self.metric):
            self._index.add(block, new.ids[start : start + len(block)], threads)
        self._half_added = False
        self._keep(self._tables.then(new))
        if generation is not None:
            self._record = dataclasses.replace(self._record, generation=generation)

    def remove(self, ids: NDArray[np.integer] | Sequence[int], *, generation: int | None = None) -> int:
        """Exclude ``ids`` from searches; return how many of them were searchable. Unknown ids are ignored.

        ``faiss.read_index`` of the file still finds removed rows, until ``purge`` or the next build.
        """
        positions = self._places.positions(np.asarray(ids, np.int64).reshape(-1))
        removed = self._tables.removed.copy()
        removed[positions[positions >= 0]] = True
        count = int(removed.sum() - self._tables.removed.sum())
        self._keep(dataclasses.replace(self._tables, removed=removed))
        if generation is not None:
            self._record = dataclasses.replace(self._record, generation=generation)
        return count

    def ids_of_keys(self, chosen: Callable[[Sequence[bytes]], NDArray[np.bool_]]) -> NDArray[np.int64]:
        """Return the ids of all rows whose keys are selected by the function ``chosen``; removed rows are included."""
        return self._tables.ids[chosen(self._tables.keys)]

    def relabel(self, ids: NDArray[np.integer], labels: Sequence[str | None]) -> None:
        """Set the label of each of ``ids`` (m,); unknown ids are ignored."""
        self._keep(self._tables.relabelled(self._places.positions(np.asarray(ids)), labels))

    def set_origin(self, origin: Mapping[str, Any]) -> None:
        """Record ``origin`` (JSON): the store of the rows, and its state when the index was built or updated."""
        self._record = dataclasses.replace(self._record, identity={**self._record.identity, KEY: dict(origin)})

    def purge(self) -> int:
        """If the index is exact, delete removed rows from the FAISS index; return how many were deleted.

        Graphs and inverted lists of codes cannot delete rows: 0 is returned, and only a rebuild deletes the rows.
        """
        removed = self._tables.removed
        if not self.exact or not removed.any():
            return 0
        self._load_whole()
        self._index.delete(removed)
        self._keep(self._tables.take(np.flatnonzero(~removed)))
        self._record = dataclasses.replace(self._record, measured_rows=min(self._record.measured_rows, len(self)))
        return int(removed.sum())

    def _load_whole(self) -> None:
        """Load a memory-mapped index, which is read-only, into memory."""
        if self._index.mapped and self._path is not None:
            loaded, tables, _ = pair.load(self._path, mmap=False, check=False)
            if not np.array_equal(tables.ids, self._tables.ids):
                raise FeatstoreError(f"{self._path}: has been replaced since it was opened; open it again")
            self._index = loaded

    def set_recall(self, recall: Recall) -> None:
        """Record a new measurement of recall and, if a contract requires a recall, whether that recall is reached."""
        contract = self._record.contract
        if contract is not None:
            contract = {**contract, "holds": keeps(recall, float(contract["recall"]))}
        self._record = dataclasses.replace(
            self._record, recall=recall, measured_rows=len(self._tables.ids), contract=contract
        )

    def info(self) -> dict[str, Any]:
        """Return the properties of the index as JSON types."""
        plain = ("metric", "factory", "measured_rows", "contract", "trials", "fingerprint", "generation")
        return {
            "path": None if self._path is None else str(self._path),
            "rows": len(self),
            "removed": int(self._tables.removed.sum()),
            "labelled": 0 if self._tables.labels is None else int((self._tables.labels >= 0).sum()),
            "dimension": self.dimension,
            **{name: getattr(self._record, name) for name in plain},
            "exact": self.exact,
            "effort": self._index.effort,
            "recall": self._record.recall.to_dict(),
            "identity": dict(self._record.identity),
            "versions": dict(self._record.versions),
        }
