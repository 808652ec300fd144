"""The candidates for a recall contract, from plain to compressed, and the run-time parameters of each."""

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
# Of a row of a graph: its links in the lowest layer, on average one more layer in 31 rows, its offset and its level.
_LINK_BYTES = 4 * 2 * defaults.HNSW_LINKS + 6 + 8 + 4
_ID_BYTES = 8
_HEAD_BYTES = 4096
_SCAN_BLOCK = 32
# Codes that the last stage compares with, and their bytes a dimension; the second is a smaller form of the first.
_REFINED = (("SQfp16", 2), ("SQ8", 1))


@dataclass(frozen=True)
class Candidate:
    """One kind of index: ``name``, FAISS ``factory``, bytes of its file (a row, and besides), and what can be tuned.

    ``main``: the parameter that is raised until the contract holds, over ``steps``;
    ``depths``: values of k_factor (re-ranked neighbours / k) where there is a re-ranking stage. ``smaller_than``: the
    name of the one of which it is a smaller form, no quicker and no better: tried only where that takes too much memory.
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
        """Return the most bytes that the FAISS file of ``rows`` takes."""
        return self.fixed_bytes + self.row_bytes * rows

    @property
    def exact(self) -> bool:
        """Whether it compares with every vector at full precision."""
        return self.factory == "Flat"

    def effort(self, step: int, depth: float | None) -> dict[str, float]:
        """Return the run-time parameters for the ``step``-th value of ``main`` and this ``depth``."""
        value: dict[str, float] = {} if self.main is None else {self.main: self.steps[step]}
        return value if depth is None else {**value, "k_factor": depth}

    @property
    def greatest(self) -> dict[str, float]:
        """The most that can be spent on recall."""
        return self.effort(-1, self.depths[-1] if self.depths else None)


def flat(dimension: int) -> Candidate:
    """Return exact search."""
    return Candidate("flat", "Flat", 4 * dimension + _ID_BYTES, fixed_bytes=_HEAD_BYTES)


def lists_for(rows: int) -> int:
    """Inverted lists for ``rows``: the power of two nearest to sqrt(rows); k-means then has > 39 points a list."""
    return 1 << max(2, round(math.log2(max(4.0, math.sqrt(rows)))))


def ladder(rows: int, dimension: int, metric: Metric) -> Iterator[Candidate]:
    """Yield the candidates for ``rows`` x ``dimension`` under ``metric``, the quickest to build first.

    * flat: exact, the yardstick.
    * pca-ivf-pq: the first principal components, an eighth or a quarter of the dimensions, turned at random so that
      each part has its share of the variance (H. Jegou et al., TPAMI 2012); inverted lists over their 4-bit product
      codes, scanned in registers (F. Andre et al., VLDB 2015), one or two components a part; the best are re-ranked on
      codes of fp16 or 8 bits of the vectors as they were.
    * ivf-pq: the same without the projection, one bit a dimension, for spectra that do not fall.
    * hnsw: a graph (Y. Malkov & D. Yashunin, TPAMI 2018) over fp16 or 8-bit codes. Float32 in the graph doubles the
      bytes that a step reads and changes no neighbour, so it is left out.

    On 61,776 x 1280 real features, at recall@10 0.95 and in one thread, two components a part of an eighth of the
    dimensions gave 1.17 times the rate of a quarter; one component a part gave as much (1.0 to 1.1 times, by how alike the
    queries of a batch are), and on 784 gray pixels 1.4 times the rate of two. Tried and left out there: half or twice as many lists; a second,
    8-bit code of the projection between the lists and the re-ranking; re-ranking on 8 bits alone (0.9 times, and at
    0.99 it does not get there); 8-bit codes in the lists (half the rate); a graph over the projection, re-ranked (two
    thirds); IVF over RaBitQ (J. Gao & C. Long, SIGMOD 2024), a third to a quarter at equal recall.
    """
    yield flat(dimension)
    lists = lists_for(rows)
    # Codes of what is left of a vector less its list's centre are finer. Under inner products a query's table serves all
    # lists; squared distances would take a table a list.
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
    """Lists of 4-bit codes, ``width`` dimensions a part, of ``kept`` components (0: of the vector as it is), re-ranked."""
    coded = kept or dimension
    parts = coded // width
    name = f"pca{kept}-ivf-pq{width}" if kept else f"ivf-pq{width}"
    # The projection (with all components) and its mean.
    projection = 4 * dimension * (dimension + kept + 5) if kept else 0
    return Candidate(
        f"{name}-{codes[2:]}",
        f"{f'PCAR{kept},' if kept else ''}IVF{lists},PQ{parts}x4fs{residual},Refine({codes})",
        (parts + 1) // 2 + size * dimension + 2 * _ID_BYTES,
        "nprobe",
        tuple(step for step in _LISTS if step <= lists),
        _DEPTHS,
        # Centres, codebooks, scales of the codes, and a last block of each list that is not full.
        _HEAD_BYTES + projection + (lists + 18) * 4 * coded + lists * (_SCAN_BLOCK * parts // 2 + 64),
        f"{name}-fp16" if size == 1 else None,
    )
