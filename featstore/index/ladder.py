"""The candidates for a recall contract, from plain to compressed, and the run-time parameters of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from featstore import defaults

GRAPH_EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_LISTS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512)
_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
# Of a row of a graph: its links in the lowest layer, on average one more layer in 31 rows, its offset and its level.
_LINK_BYTES = 4 * 2 * defaults.HNSW_LINKS + 6 + 8 + 4
_ID_BYTES = 8
_HEAD_BYTES = 4096
_SCAN_BLOCK = 32


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


def ladder(rows: int, dimension: int) -> Iterator[Candidate]:
    """Yield the candidates for ``rows`` x ``dimension``, the quickest to build first.

    * flat: exact, the yardstick.
    * pca-ivf-pq: the first principal components, a quarter or an eighth of the dimensions, turned at random so that
      each part has its share of the variance (H. Jegou et al., TPAMI 2012); inverted lists over their 4-bit product
      codes, scanned in registers (F. Andre et al., VLDB 2015), two components a part; the best are re-ranked on
      codes of fp16 or 8 bits of the vectors as they were.
    * ivf-pq: the same without the projection, one bit a dimension, for spectra that do not fall.
    * hnsw: a graph (Y. Malkov & D. Yashunin, TPAMI 2018) over fp16 or 8-bit codes. Float32 in the graph doubles the
      bytes that a step reads and changes no neighbour, so it is left out.

    On 61,776 x 1280 real features, at recall@10 0.95 and in two threads, the projection to a quarter gave 1.3 times the
    rate of ivf-pq4 and 1.7 times that of hnsw-fp16, side by side. Tried and left out: IVF
    over RaBitQ (J. Gao & C. Long, SIGMOD 2024), a third to a quarter of ivf-pq's rate at equal recall and re-ranking; a
    re-ranked graph over 8-bit codes of the projection, two thirds of pca-ivf-pq's rate.
    """
    yield flat(dimension)
    lists = lists_for(rows)
    steps = tuple(step for step in _LISTS if step <= lists)
    for share, codes, size in ((4, "SQfp16", 2), (8, "SQfp16", 2), (4, "SQ8", 1), (8, "SQ8", 1)):
        if kept := dimension // share // 8 * 8:
            yield Candidate(
                f"pca{kept}-ivf-pq2-{codes[2:]}",
                f"PCAR{kept},IVF{lists},PQ{kept // 2}x4fs,Refine({codes})",
                kept // 4 + size * dimension + 2 * _ID_BYTES,
                "nprobe",
                steps,
                _DEPTHS,
                # The projection (with all components) and its mean; centres, codebooks, scales; last blocks of lists.
                _HEAD_BYTES
                + 4 * dimension * (dimension + kept + 5)
                + (lists + 17) * 4 * kept
                + lists * (_SCAN_BLOCK * kept // 4 + 64),
                f"pca{kept}-ivf-pq2-fp16" if size == 1 else None,
            )
    for width, codes, size in ((4, "SQfp16", 2), (4, "SQ8", 1)):
        if dimension % width == 0:
            parts = dimension // width
            yield Candidate(
                f"ivf-pq{width}-{codes[2:]}",
                f"IVF{lists},PQ{parts}x4fs,Refine({codes})",
                parts // 2 + size * dimension + 2 * _ID_BYTES,
                "nprobe",
                steps,
                _DEPTHS,
                # Centres, codebooks, scales of the codes, and a last block of each list that is not full.
                _HEAD_BYTES + (lists + 18) * 4 * dimension + lists * (_SCAN_BLOCK * parts // 2 + 64),
                f"ivf-pq{width}-fp16" if size == 1 else None,
            )
    for codes, size in (("SQfp16", 2), ("SQ8", 1)):
        yield Candidate(
            f"hnsw-{codes[2:]}",
            f"HNSW{defaults.HNSW_LINKS}_{codes}",
            size * dimension + _LINK_BYTES + _ID_BYTES,
            "efSearch",
            GRAPH_EFFORTS,
            fixed_bytes=_HEAD_BYTES + 8 * dimension,
            smaller_than="hnsw-fp16" if size == 1 else None,
        )
