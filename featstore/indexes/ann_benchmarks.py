"""Read and write files of ann-benchmarks (M. Aumueller, E. Bernhardsson & A. Faithfull, Information Systems 2020).

A file is HDF5 with ``train`` (n, d) and ``test`` (q, d) float32. For each test row it has ``neighbors`` (q, k) int32,
the row numbers in ``train``, and ``distances`` (q, k) float32. The attribute ``distance`` is "angular" (1 - cosine) or
"euclidean". libhdf5 parses these files, as they are not featstore's own format; links to other files are refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Features
from featstore.errors import UsageError
from featstore.files import atomic, hdf5
from featstore.indexes.blocks import Floats, Metric, block_rows, gather, prepare, shape_of
from featstore.indexes.exact import exact_search
from featstore.indexes.recall import Recall
from featstore.indexes.tuning.truth import Truth

_DISTANCES: dict[Metric, str] = {"cosine": "angular", "l2": "euclidean"}
_MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class TrainRows:
    """The dataset ``train`` of a file. Each call of ``blocks`` reads the rows from the file again, block by block."""

    path: Path
    shape: tuple[int, int]

    def blocks(self) -> Iterator[Floats]:
        """Yield all rows of ``train`` in order, in blocks."""
        step = block_rows(self.shape[1])
        with hdf5.open_plain(self.path) as file:
            train = file.matrix("train")
            for start in range(0, self.shape[0], step):
                yield np.asarray(train[start : start + step], np.float32)


@dataclass(frozen=True)
class AnnBenchmark:
    """Content of an ann-benchmarks file.

    ``train`` (n, d): read block by block; ``test`` (q, d): queries; ``neighbors`` (q, k): row numbers of train, best
    first; ``distances`` (q, k).
    """

    metric: Metric
    train: TrainRows
    test: Floats
    neighbors: NDArray[np.int64]
    distances: Floats

    def recall(self, found: NDArray[np.int64], k: int) -> Recall:
        """Return recall@``k`` of ``found`` (q, at least k), row numbers of ``train``, -1 for none.

        A row that is as near as the k-th true neighbour counts as a true neighbour.
        """
        if not 1 <= k <= self.neighbors.shape[1]:
            raise UsageError(f"the file has {self.neighbors.shape[1]} neighbors a query: recall@{k} is not known")
        scores = 1 - self.distances if self.metric == "cosine" else self.distances**2
        queries = prepare(self.test, self.metric)
        return Truth(queries, scores, self.neighbors, k, self.metric != "l2").recall(found[:, :k])


def write_ann_benchmark(
    path: str | os.PathLike[str],
    vectors: Features,
    queries: NDArray[np.integer],
    *,
    metric: Metric = "cosine",
    k: int = 100,
    withheld: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> None:
    """Write a file with the rows ``queries`` (q,) of ``vectors`` (n, d) as test and all other rows as train.

    ``withheld`` (n,): rows to leave out of train, for example near copies of a query. ``k``: number of exact neighbours
    of each query. Train is written block by block.
    Raises UsageError for the inner product, which the format does not support.
    """
    if metric not in _DISTANCES:
        raise UsageError(f"files of ann-benchmarks have no metric {metric!r}; choose cosine or l2")
    rows, dimension = shape_of(vectors)
    asking = np.asarray(queries, np.int64)
    kept = np.ones(rows, np.bool_) if withheld is None else ~withheld
    kept[asking] = False
    if not len(asking) or not kept.any():
        raise UsageError("a file of ann-benchmarks needs queries and rows to look for them in")
    test = gather(vectors, "ip", asking)
    scores, found = exact_search(vectors, test, min(k, int(kept.sum())), metric=metric, allowed=kept, threads=threads)
    place = np.cumsum(kept) - 1
    distances = np.sqrt(np.maximum(scores, 0)) if metric == "l2" else np.maximum(1 - scores, 0)
    attributes = {"type": "dense", "distance": _DISTANCES[metric], "dimension": dimension, "point_type": "float"}
    with atomic.new_file(Path(path)) as temporary:
        hdf5.write_plain(
            temporary,
            attributes,
            {
                "test": (test.shape, np.float32, [test]),
                "neighbors": (found.shape, np.int32, [place[found]]),
                "distances": (distances.shape, np.float32, [distances]),
                "train": ((int(kept.sum()), dimension), np.float32, _kept(vectors, kept)),
            },
        )


def _kept(vectors: Features, kept: NDArray[np.bool_]) -> Iterator[Floats]:
    start = 0
    for block in [vectors] if isinstance(vectors, np.ndarray) else vectors.blocks():
        yield np.asarray(block[kept[start : start + len(block)]], np.float32)
        start += len(block)


def read_ann_benchmark(path: str | os.PathLike[str]) -> AnnBenchmark:
    """Open a file of ann-benchmarks. Raises UsageError for other files and for metrics except angular and euclidean."""
    what = os.fspath(path)
    try:
        with hdf5.open_plain(Path(path)) as file:
            parts = {name: _matrix(file, name, what) for name in ("train", "test", "neighbors", "distances")}
            metrics = {name: metric for metric, name in _DISTANCES.items()}
            metric = metrics.get(file.attribute("distance"))
            if metric is None:
                raise UsageError(f"{what}: its distance is neither angular nor euclidean")
            shapes = {name: tuple(int(size) for size in part.shape) for name, part in parts.items()}
            (rows, dimension), (asked, width) = shapes["train"], shapes["test"]
            alike = (
                shapes["neighbors"] == shapes["distances"] and shapes["neighbors"][0] == asked and width == dimension
            )
            if not alike or not rows or not asked or not dimension or not shapes["neighbors"][1]:
                raise UsageError(f"{what}: its parts do not fit one another: {shapes}")
            test = np.asarray(parts["test"][:], np.float32)
            neighbors = np.asarray(parts["neighbors"][:], np.int64)
            distances = np.asarray(parts["distances"][:], np.float32)
    except FileNotFoundError:
        raise UsageError(f"{what}: there is no such file") from None
    except (OSError, RuntimeError, KeyError, ValueError, MemoryError) as error:
        raise UsageError(f"{what}: is no file of ann-benchmarks ({' '.join(str(error).split())[:100]})") from None
    if neighbors.min() < 0 or neighbors.max() >= rows:
        raise UsageError(f"{what}: names neighbors that are not among its {rows:,} rows")
    return AnnBenchmark(metric, TrainRows(Path(path), (rows, dimension)), test, neighbors, distances)


def _matrix(file: hdf5.Plain, name: str, what: str) -> Any:
    try:
        part = file.matrix(name)
    except ValueError as error:
        raise UsageError(f"{what}: {error}; is it a dense set of ann-benchmarks?") from None
    if name != "train" and part.size * 8 > _MOST_BYTES:
        raise UsageError(f"{what}: its {name!r} is larger than {_MOST_BYTES >> 30} GiB")
    return part
