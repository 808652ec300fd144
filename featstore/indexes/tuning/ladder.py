"""Candidate types of index for a required recall, with the search parameters that tuning may set.

The candidates range from uncompressed to compressed indexes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from featstore import defaults
from featstore.indexes.blocks import Metric

GRAPH_EFFORTS = (*range(10, 20), *range(20, 40, 2), *(round(40 * 1.1**step) for step in range(35)))
_LISTS = (*range(1, 25), 26, 28, 30, 32, 36, 40, 44, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 256, 384, 512)
_DEPTHS = (
    *(step / 10 for step in range(10, 20)),
    *(step / 20 for step in range(40, 160, 3)),
    *(step / 4 for step in range(32, 64)),
    *(16.0, 17.0, 18.0, 19.0, 20.0, 22.0, 24.0, 26.0, 28.0, 32.0, 40.0, 48.0, 64.0),
)
# Average bytes per row of an HNSW graph: links in the lowest layer; links in the upper layers, which only one row in 31
# has; offset; level.
_LINK_BYTES = 4 * 2 * defaults.HNSW_LINKS + 6 + 8 + 4
_ID_BYTES = 8
_HEAD_BYTES = 4096
_SCAN_BLOCK = 32
# Codes of the vectors for re-ranking: (FAISS name, bytes per dimension). The second kind needs half the memory.
_REFINED = (("SQfp16", 2), ("SQ8", 1))


@dataclass(frozen=True)
class Candidate:
    """One type of index: its ``name``, its FAISS ``factory`` string, the size of its file, its search parameters.

    The file has ``fixed_bytes`` plus ``row_bytes`` for each row. ``main``: the search parameter that tuning sets to
    one of the values ``steps`` (ascending). ``depths``: values of k_factor (re-ranked neighbours / k) if there is a
    re-ranking stage. ``smaller_than``: the name of a candidate with larger codes that is at least as fast and accurate.
    If that candidate fits into memory, this one is not tried.
    """

    name: str
    factory: str
    row_bytes: int
    main: str | None = None
    steps: tuple[int, ...] = ()
    depths: tuple[float, ...] = ()
    fixed_bytes: int = 0
    smaller_than: str | None = None

    def file_bytes(self, rows: int) -> int:
        """Return an upper bound on the size, in bytes, of the FAISS file of an index with ``rows`` rows."""
        return self.fixed_bytes + self.row_bytes * rows

    @property
    def exact(self) -> bool:
        """Whether a search compares the query with every vector at full precision."""
        return self.factory == "Flat"

    def effort(self, step: int, depth: float | None) -> dict[str, float]:
        """Return search parameters: ``main`` gets the value ``steps[step]``, and k_factor (re-ranking) the value
        ``depth``."""
        value: dict[str, float] = {} if self.main is None else {self.main: self.steps[step]}
        return value if depth is None else {**value, "k_factor": depth}

    @property
    def greatest(self) -> dict[str, float]:
        """The largest search parameters: highest recall, slowest search."""
        return self.effort(-1, self.depths[-1] if self.depths else None)


def flat(dimension: int) -> Candidate:
    """Return the candidate index "flat", which is exact search."""
    return Candidate("flat", "Flat", 4 * dimension + _ID_BYTES, fixed_bytes=_HEAD_BYTES)


def lists_for(rows: int) -> int:
    """Return the number of inverted lists for ``rows``: the power of two nearest to sqrt(rows), at least 4.

    From 9,000 rows each list has at least 70 rows on average; FAISS recommends at least 39 for training.
    """
    return 1 << max(2, round(math.log2(max(4.0, math.sqrt(rows)))))


def ladder(rows: int, dimension: int, metric: Metric) -> Iterator[Candidate]:
    """Yield the candidates for ``rows`` x ``dimension`` under ``metric``, the fastest to build first.

    * flat: exact search, the reference.
    * pca-ivf-pq: the first principal components, an eighth or a quarter of the dimensions, rotated at random so that
      all sub-vectors have the same variance (H. Jegou et al., TPAMI 2012); inverted lists of 4-bit product codes,
      scanned in registers (F. Andre et al., VLDB 2015), with one or two components per sub-vector; the best hits are
      re-ranked by fp16 or 8-bit codes of the original vectors.
    * ivf-pq: inverted lists and re-ranking as in pca-ivf-pq, but without the projection, and with four dimensions per
      sub-vector; for features whose variance is spread over many principal components.
    * hnsw: a graph (Y. Malkov & D. Yashunin, TPAMI 2018) over fp16 or 8-bit codes. Float32 vectors are not offered:
      they double the bytes read per step and find the same neighbours.

    Measured on 61,776 x 1280 real features at recall@10 of 0.95 in one thread: projecting to an eighth of the
    dimensions, with two components per sub-vector, gave 1.17 times the queries per second of projecting to a quarter.
    One component per sub-vector was as fast as two (1.0 to 1.1 times, depending on how similar the queries of a batch
    are), and 1.4 times as fast on vectors of 784 gray pixels. Rejected after measuring on these features (relative
    speed in parentheses): half or twice as many lists; an additional 8-bit code of the projection before re-ranking;
    re-ranking by 8-bit codes alone (0.9; recall 0.99 was not reached); 8-bit codes in the lists (1/2); a re-ranked
    graph over the projection (2/3); IVF over RaBitQ (J. Gao & C. Long, SIGMOD 2024; 1/4 to 1/3 at equal recall).
    """
    yield flat(dimension)
    lists = lists_for(rows)
    # Codes of the residual to the list's centroid are more precise. For inner products one lookup table per query
    # is enough for all lists. Squared distances would need one table per list, so "l2" does not use residuals.
    residual = "" if metric == "l2" else "r"
    projections = [(dimension // share // 8 * 8, width) for share, width in ((8, 2), (8, 1), (4, 2))]
    for kept, width, (codes, size) in [
        *((kept, width, refined) for kept, width in projections if kept for refined in _REFINED),
        *((0, 4, refined) for refined in _REFINED if dimension % 4 == 0),
    ]:
        yield _product_codes(dimension, lists, kept, width, residual, codes, size)
    for codes, size in _REFINED:
        yield Candidate(
            f"hnsw-{codes[2:]}",
            f"HNSW{defaults.HNSW_LINKS}_{codes}",
            size * dimension + _LINK_BYTES + _ID_BYTES,
            "efSearch",
            GRAPH_EFFORTS,
            fixed_bytes=_HEAD_BYTES + 8 * dimension,
            smaller_than="hnsw-fp16" if size == 1 else None,
        )


def _product_codes(
    dimension: int, lists: int, kept: int, width: int, residual: str, codes: str, size: int
) -> Candidate:
    """Return the candidate with ``lists`` inverted lists of 4-bit codes. The best hits are re-ranked by ``codes``.

    Each 4-bit code stands for ``width`` of the ``kept`` principal components; if ``kept`` is 0, for ``width``
    dimensions of the vector itself.
    """
    coded = kept or dimension
    parts = coded // width
    name = f"pca{kept}-ivf-pq{width}" if kept else f"ivf-pq{width}"
    # Bytes of the projection: its matrix (with all components), and the mean vector.
    projection = 4 * dimension * (dimension + kept + 5) if kept else 0
    return Candidate(
        f"{name}-{codes[2:]}",
        f"{f'PCAR{kept},' if kept else ''}IVF{lists},PQ{parts}x4fs{residual},Refine({codes})",
        (parts + 1) // 2 + size * dimension + 2 * _ID_BYTES,
        "nprobe",
        tuple(step for step in _LISTS if step <= lists),
        _DEPTHS,
        # Bytes that do not depend on the number of rows: centroids, codebooks, scales of the codes, and the unused part
        # of the last block of each list.
        _HEAD_BYTES + projection + (lists + 18) * 4 * coded + lists * (_SCAN_BLOCK * parts // 2 + 64),
        f"{name}-fp16" if size == 1 else None,
    )
