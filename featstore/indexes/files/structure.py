"""Check that all offsets and row numbers in an untrusted index are valid, because FAISS does not check them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_EFFORT = 1 << 16
"""Largest accepted value of efSearch, nprobe and k_factor in an index with fewer rows than this. Memory and time of a
search are proportional to them; tuning never sets a value as large as this limit."""
_BLOCK = 32
"""Number of rows in a block of 4-bit codes, as FAISS stores them."""
_WRITTEN = {"IndexFlat", "IndexFlatIP", "IndexFlatL2", "IndexScalarQuantizer", "IndexHNSWFlat", "IndexHNSWSQ"}
_WRITTEN |= {"IndexPreTransform", "IndexIVFPQFastScan", "IndexRefine", "IndexRefineFlat"}
"""Names of the FAISS classes of all indexes that featstore writes.

faiss_file.py checks the types in the file before FAISS reads the file; this set serves to check the objects that FAISS
then made.
"""


def effort_fault(effort: Mapping[str, float], rows: int) -> str | None:
    """Describe an error in the search parameters ``effort`` of an index with ``rows`` rows; None if there is none."""
    most = max(rows, _MOST_EFFORT)
    if all(math.isfinite(value) and 1 <= value <= most for value in effort.values()):
        return None
    return "the effort of its search is out of all bounds"


def graph_fault(
    rows: int,
    neighbours: NDArray[np.int32],
    offsets: NDArray[np.uint64],
    levels: NDArray[np.int32],
    widths: NDArray[np.int32],
    entry: int,
    top: int,
) -> str | None:
    """Describe an error in an HNSW graph of ``rows`` nodes; None if there is none.

    Node i is on ``levels[i]`` levels. Its links are ``neighbours[offsets[i]:offsets[i + 1]]``; the links of level l are
    ``widths[l]:widths[l + 1]`` in this slice, -1 for none. Search starts at ``entry`` on level ``top``.
    """
    if levels.shape != (rows,) or offsets.shape != (rows + 1,) or not len(widths):
        return "the graph does not have the index's rows"
    if not rows:
        return None
    if widths[0] != 0 or bool((widths[1:] < widths[:-1]).any()):
        return "the widths of its levels are damaged"
    if int(levels.min()) < 1 or int(levels.max()) >= len(widths):
        return "a node is on no level or on too many"
    spans = offsets.astype(np.int64)
    if spans[0] != 0 or spans[-1] != len(neighbours) or not np.array_equal(np.diff(spans), widths[levels]):
        return "the offsets of its links are damaged"
    if len(neighbours) and (int(neighbours.min()) < -1 or int(neighbours.max()) >= rows):
        return "a link leads out of the graph"
    if not 0 <= entry < rows or top != int(levels[entry]) - 1:
        return "its entry is damaged"
    for level in range(1, int(levels.max())):
        nodes = np.flatnonzero(levels > level)
        links = neighbours[spans[nodes][:, None] + np.arange(widths[level], widths[level + 1])]
        if bool((levels[links[links >= 0]] <= level).any()):
            return "a link leads to a node that is not on its level"
    return None


def chain_fault(entering: int, leaving: int, transforms: Iterable[tuple[int, int, int, int | None]]) -> str | None:
    """Describe an error in ``transforms``, a chain from ``entering`` to ``leaving`` dimensions; None if there is none.

    A transform is (dimensions in, dimensions out, size of its matrix, size of its bias or None if it has no bias).
    """
    for inner, outer, matrix, bias in transforms:
        if inner != entering or inner < 1 or outer < 1 or matrix != inner * outer or bias not in (None, outer):
            return "the projection in front of it is damaged"
        entering = outer
    return None if entering == leaving else "the projection in front of it is damaged"


def lists_fault(rows: int, lists: Iterable[NDArray[np.int64]]) -> str | None:
    """Describe an error in inverted ``lists``; None if each position from 0 to ``rows`` - 1 is in them exactly once."""
    seen = np.zeros(rows, np.bool_)
    count = 0
    for positions in lists:
        if len(positions) and (int(positions.min()) < 0 or int(positions.max()) >= rows):
            return "a list names a row that the index does not have"
        seen[positions] = True
        count += len(positions)
    return None if count == rows and bool(seen.all()) else "its lists do not hold each row once"


def part_fault(part: Any, rows: int, lists: Any = None) -> str | None:
    """Describe an error in the type of a FAISS index or the sizes of its codes; None if there is none.

    FAISS computes addresses from these sizes. ``part`` (the index) and its inverted ``lists`` have been downcast to
    their FAISS classes.
    """
    kind, dimension, damaged = type(part).__name__, int(part.d), "the sizes of its codes are damaged"
    if kind not in _WRITTEN:
        return f"has a part of the type {kind}, which featstore does not write"
    if lists is not None:
        return None if _lists_fit(part, lists, dimension) else damaged
    if not hasattr(part, "codes"):
        return None
    width = 4 * dimension
    if hasattr(part, "sq"):
        code = part.sq
        if code.qtype not in (code.QT_8bit, code.QT_fp16):
            return "its codes are of a kind that featstore does not write"
        width, ranges = (dimension, 2 * dimension) if code.qtype == code.QT_8bit else (2 * dimension, 0)
        # An index without rows is not trained, so its quantiser has no ranges.
        if (int(code.d), int(code.code_size)) != (dimension, width) or (rows and code.trained.size() != ranges):
            return damaged
    return None if int(part.code_size) == width and part.codes.size() == rows * width else damaged


def _lists_fit(part: Any, lists: Any, dimension: int) -> bool:
    quantizer, parts = part.pq, int(part.pq.M)
    even = parts + parts % 2
    return (
        type(lists).__name__ == "BlockInvertedLists"
        and (int(quantizer.d), int(quantizer.nbits), int(part.quantizer.d)) == (dimension, 4, dimension)
        and parts > 0
        and dimension % parts == 0
        and quantizer.centroids.size() == dimension << 4
        and (int(part.M2), int(part.bbs), int(part.qbs2)) == (even, _BLOCK, 0)
        and (int(lists.n_per_block), int(lists.block_size)) == (_BLOCK, _BLOCK * even // 2)
    )
