"""The candidates for a recall contract, from plain to compressed, and the run-time parameters of each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from featstore import defaults

GRAPH_EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_LISTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_DEPTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
# Of a row of a graph: its links in the lowest layer, on average one more layer in 31 rows, its offset and its level.
_LINK_BYTES = 4 * 2 * defaults.HNSW_LINKS + 6 + 8 + 4
_ID_BYTES = 8
_HEAD_BYTES = 4096
_SCAN_BLOCK = 32


@dataclass(frozen=True)
class Candidate:
    """One kind of index: ``name``, FAISS ``factory``, bytes of its file (a row, and besides), and what can be tuned.

    ``main``: the parameter that is raised until the contract holds, over ``steps``;
    ``depths``: values of k_factor (re-ranked neighbours / k) where there is a re-ranking stage.
    """

    name: str
    factory: str
    row_bytes: int
    main: str | None = None
    steps: tuple[int, ...] = ()
    depths: tuple[float, ...] = ()
    fixed_bytes: int = 0

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
    * ivf-pq: inverted lists over 4-bit product codes scanned in registers (F. Andre et al., VLDB 2015), half a bit or
      one bit a dimension, re-ranked on 8-bit or fp16 codes.
    * hnsw: a graph (Y. Malkov & D. Yashunin, TPAMI 2018) over fp16 or 8-bit codes. Float32 in the graph doubles the
      bytes that a step reads and changes no neighbour, so it is left out.

    Tried on 42,600 x 1280 real features and left out: IVF over RaBitQ (J. Gao & C. Long, SIGMOD 2024), a third to a
    quarter of ivf-pq's rate at equal recall and re-ranking; PCA in front, slower at equal recall.
    """
    yield flat(dimension)
    lists = lists_for(rows)
    steps = tuple(step for step in _LISTS if step <= lists)
    for width, codes, size in ((8, "SQ8", 1), (8, "SQfp16", 2), (4, "SQfp16", 2)):
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
            )
    for codes, size in (("SQfp16", 2), ("SQ8", 1)):
        yield Candidate(
            f"hnsw-{codes[2:]}",
            f"HNSW{defaults.HNSW_LINKS}_{codes}",
            size * dimension + _LINK_BYTES + _ID_BYTES,
            "efSearch",
            GRAPH_EFFORTS,
            fixed_bytes=_HEAD_BYTES + 8 * dimension,
        )
