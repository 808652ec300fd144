"""Make FAISS files to attack featstore with: an index of every kind that FAISS can write, alone or nested in another
index."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faiss as _faiss
import numpy as np

from featstore.indexes.files import pair
from featstore.indexes.rows import IndexRows

faiss: Any = _faiss
DIMENSION, ROWS = 16, 260
FACTORIES = (
    *("Flat", "LSH", "PQ4x4np", "PQ4x4fs", "SQ4", "SQ6", "SQ8", "SQfp16", "SQbf16", "RQ2x4", "LSQ2x4", "PRQ2x2x4"),
    *("PLSQ2x2x4", "RQ2x4fs_Nrq2x4", "LSQ2x4fs_Nlsq2x4", "PRQ2x2x4fs_Nrq2x4", "PLSQ2x2x4fs_Nlsq2x4", "RaBitQ"),
    *("RaBitQ4", "RaBitQfs", "EDEN4", "FlatL2Panorama2_4", "Residual2x2,PQ4", "ZnLattice2x4_4"),
    *("IVF4,Flat", "IVF4,FlatDedup", "IVF4,SQ8", "IVF4,SQfp16", "IVF4,PQ4x4np", "IVF4,PQ4x4fs", "IVF4,PQ4x4fsr"),
    *("IVF4,PQ4+4", "IVF4,RQ2x4", "IVF4,LSQ2x4", "IVF4,PRQ2x2x4", "IVF4,PLSQ2x2x4", "IVF4,RQ2x4fs_Nrq2x4"),
    *("IVF4,LSQ2x4fs_Nlsq2x4", "IVF4,PRQ2x2x4fs_Nrq2x4", "IVF4,PLSQ2x2x4fs_Nlsq2x4", "IVF4,RaBitQ", "IVF4,RaBitQ4"),
    *("IVF4,RaBitQfs", "IVF4,EDEN4", "IVF4,ITQ8,SH", "IVF4,FlatPanorama2", "IVF4_HNSW4,Flat", "IMI2x2,Flat"),
    *("HNSW4", "HNSW4_SQ8", "HNSW4_PQ4x4", "HNSW4_4+PQ4", "HNSW4_FlatPanorama2", "NSG4", "NSG4_SQ8"),
    *("PCA8,Flat", "PCAR8,IVF4,PQ4x4fsr", "OPQ4_8,PQ4x4np", "RR8,Flat", "ITQ8,LSH", "Pad32,Flat", "L2norm,Flat"),
    *("HR,Flat", "IVF4,Flat,RFlat", "PQ4x4,Refine(PQ4x4)", "IVF4,PQ4x4fs,Refine(SQfp16)"),
    *("PCAR8,IVF4,PQ4x4fsr,Refine(SQ8)", "IDMap,Flat", "IDMap2,Flat", "MinMax,SQ8", "MinMaxFP16,SQ8"),
)
MADE_BY_HAND = ("NNDescent", "no lists", "lists on disk")
"""Kinds of indexes that ``faiss.index_factory`` cannot make."""


def vectors(rows: int = ROWS) -> np.ndarray:
    """Return random vectors (rows, d); every call returns the same values."""
    return np.random.default_rng(0).standard_normal((rows, DIMENSION)).astype(np.float32)


@cache
def blob(kind: str, aside: str) -> bytes:
    """Return the bytes of a FAISS file with an index of ``kind``; on-disk inverted lists are written to the file
    ``aside``."""
    faiss.omp_set_num_threads(1)
    return bytes(faiss.serialize_index(_made(kind, aside)))


def _made(kind: str, aside: str) -> Any:
    if kind == "NNDescent":
        index = faiss.IndexNNDescentFlat(DIMENSION, 8, faiss.METRIC_L2)
        index.add(vectors())
        return index
    if kind in ("no lists", "lists on disk"):
        index = faiss.index_factory(DIMENSION, "IVF4,Flat")
        index.train(vectors())
        if kind == "no lists":
            index.replace_invlists(None)
            return index
        lists = faiss.OnDiskInvertedLists(4, 4 * DIMENSION, aside)
        lists.this.disown()
        index.replace_invlists(lists, True)
        index.add(vectors())
        return index
    index = faiss.index_factory(DIMENSION, kind)
    index.train(vectors())
    if kind.startswith("IDMap"):
        index.add_with_ids(vectors(), np.arange(ROWS))
    elif not kind.startswith("MinMax"):
        index.add(vectors())
    return index


def _flat(rows: int, plus: float = 1) -> Any:
    """Return a flat index as a placeholder, whose bytes are later replaced by those of an index of another kind."""
    index = faiss.IndexFlatL2(DIMENSION)
    index.add(vectors(rows) + plus)
    return index


def _re_ranked(rows: int, base: Any, codes: Any) -> Any:
    both = faiss.IndexRefine(base, codes)
    both.ntotal = rows
    return both


def _graph(rows: int, stand_in: Any) -> Any:
    graph = faiss.IndexHNSWFlat(DIMENSION, 4)
    graph.add(faiss.rev_swig_ptr(stand_in.get_xb(), rows * DIMENSION).reshape(rows, DIMENSION))
    return graph


def _projected(rows: int, stand_in: Any) -> Any:
    turn = faiss.PCAMatrix(DIMENSION, DIMENSION)
    turn.train(vectors())
    outer = faiss.IndexPreTransform(turn, stand_in)
    outer.ntotal = rows
    return outer


def _centres(rows: int, stand_in: Any) -> Any:
    lists = faiss.IndexIVFFlat(stand_in, DIMENSION, max(1, rows))
    lists.is_trained = True
    return lists


PLACES: dict[str, Callable[[int, Any], Any]] = {
    "below the ids": lambda rows, stand_in: stand_in,
    "to be re-ranked": lambda rows, stand_in: _re_ranked(rows, stand_in, _flat(rows, 2)),
    "to re-rank on": lambda rows, stand_in: _re_ranked(rows, _flat(rows, 2), stand_in),
    "behind a projection": _projected,
    "the storage of a graph": _graph,
    "the centres of lists": _centres,
}
"""Positions at which an index can be nested in another one, by name.

Each function takes the number of rows and the inner index, and returns the outer index."""


@cache
def _around(place: str, rows: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after an index of ``rows`` rows that is nested at ``place`` in a FAISS file."""
    stand_in = _flat(rows)
    inner = PLACES[place](rows, stand_in)
    outer = faiss.IndexIDMap(faiss.IndexFlatL2(DIMENSION))
    outer.add_with_ids(vectors(rows), np.arange(rows))
    before, inside, after = (bytes(faiss.serialize_index(one)) for one in (_flat(rows), outer.index, outer))
    whole = after.replace(inside, bytes(faiss.serialize_index(inner)))
    first, found, last = whole.partition(before)
    if not found:
        raise AssertionError(place)
    return first, last


def file(kind: str, place: str, aside: Path) -> tuple[bytes, int]:
    """Return a FAISS file with an index of ``kind`` nested at ``place``, and its number of rows.

    On-disk inverted lists are in the file ``aside``.
    """
    inner = blob(kind, str(aside))
    rows = 0 if kind.startswith("MinMax") else ROWS
    first, last = _around(place, rows)
    return first + inner + last, rows


def seal(path: Path, tables: IndexRows, record: pair.Record, dimension: int = DIMENSION) -> None:
    """Write featstore's side file (keys, ids, checksums) for the FAISS file at ``path``, with valid checksums."""
    pair._write_side(pair.side_path(path), path, SimpleNamespace(dimension=dimension), tables, record)
