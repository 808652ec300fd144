"""Check with new queries that 20 indexes reach their recorded recall: ``python -m tests.slow.contract_holds
CROPS.npz``.

A contract is the recall that an index must reach, for example recall@10 of 0.95. featstore measures the recall of each
index on held-out rows and records it, with a confidence interval, as the label of the index.

CROPS.npz is written by tests.slow.crops. Half of the indexes hold 34,000 to 58,000 crops of photographs: all crops of
each chosen picture, which form a group. The new queries are the crops of up to 300 other pictures. These indexes
alternate between features with cosine similarity and gray pixels with Euclidean distance.

The other half hold 12,000 to 30,000 rows of synthetic clusters with 32 to 128 dimensions. The new queries are 10,000
more rows: with so many queries, the measured recall is more accurate than the label. The contracts alternate between
recall@10 of 0.9, 0.95 and 0.98; seeds and sizes differ. featstore chooses among all its kinds of indexes, but for crops
not among HNSW graphs, which take long to build.

An index fails if its recall on the new queries is below the lower bound of its label. The exit code is 1 if more than 2
indexes fail, or if more than half are exact, because an exact index cannot fail. The check takes about ten minutes on
two cores.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from featstore.indexes import Contract, build_contract, check_contract
from featstore.indexes.blocks import Metric
from featstore.indexes.tuning.ladder import ladder

GOALS = (0.9, 0.95, 0.98)
ALLOWED = 2
FRESH_PICTURES = 300
FRESH_ROWS = 10_000


class Case:
    """Vectors to index and new queries, both of dimension d.

    ``vectors``: (n, d). ``groups``: (n,) group of each vector. ``queries``: (q, d). ``asking``: (q,) group of each
    query.
    """

    def __init__(
        self,
        name: str,
        metric: Metric,
        vectors: NDArray[Any],
        queries: NDArray[Any],
        groups: NDArray[Any] | None = None,
        asking: NDArray[Any] | None = None,
        graphs: bool = True,
    ) -> None:
        self.name, self.metric, self.vectors, self.queries = name, metric, vectors, queries
        self.groups, self.asking, self.graphs = groups, asking, graphs


def of_crops(file: Path, count: int, seed: int) -> Iterator[Case]:
    """Yield ``count`` data sets whose vectors are features or pixels of crops of photographs."""
    with np.load(file) as crops:
        pictures, features, gray = crops["pictures"], crops["features"], crops["gray"]
    names = np.unique(pictures)
    for number in range(count):
        random = np.random.default_rng((seed, 0, number))
        order = random.permutation(names)
        wanted = round(random.uniform(34_000, 58_000) / len(pictures) * len(names))
        inside = np.isin(pictures, order[:wanted])
        fresh = np.isin(pictures, order[wanted : wanted + FRESH_PICTURES])
        vectors, name, metric = (features, "features", "cosine") if number % 2 == 0 else (gray, "gray", "l2")
        groups, asking = pictures[inside], pictures[fresh]
        found = vectors[inside].astype(np.float32), vectors[fresh].astype(np.float32)
        yield Case(name, metric, *found, groups, asking, graphs=False)  # type: ignore[arg-type]


def of_clusters(count: int, seed: int) -> Iterator[Case]:
    """Yield ``count`` data sets of synthetic clusters; the variance decreases from the first to the last dimension."""
    for number in range(count):
        random = np.random.default_rng((seed, 1, number))
        rows, dimension = int(random.integers(12_000, 30_000)), int(random.choice([32, 64, 128]))
        scales = np.arange(1, dimension + 1) ** -0.4
        centres = random.standard_normal((500, dimension)) * scales
        drawn = centres[random.integers(0, 500, rows + FRESH_ROWS)]
        vectors = (drawn + 0.7 * random.standard_normal(drawn.shape) * scales).astype(np.float32)
        yield Case("clusters", "cosine" if number % 2 else "l2", vectors[:rows], vectors[rows:])


def measure(case: Case, goal: float, seed: int) -> dict[str, Any]:
    """Build an index for the recall ``goal``, and measure its recall on new queries, which the index did not see."""
    rows = len(case.vectors)
    candidates = [
        one
        for one in ladder(rows, case.vectors.shape[1], case.metric)
        if case.graphs or not one.name.startswith("hnsw")
    ]
    start = time.perf_counter()
    index = build_contract(
        case.vectors,
        np.arange(rows),
        (b"%d" % row for row in range(rows)),
        Contract(goal),
        metric=case.metric,
        candidates=candidates,
        groups=case.groups,
        seed=seed,
    )
    seconds = time.perf_counter() - start
    fresh = check_contract(index, case.queries, case.vectors, np.arange(rows), groups=case.asking)
    label = index.recall
    if fresh.value is None or label.low is None:
        raise RuntimeError("recall was not measured")
    return {
        "of": case.name,
        "rows": rows,
        "seed": seed,
        "contract": goal,
        "factory": index.info()["factory"],
        "efforts_asked": index.info()["contract"]["efforts_asked"],
        "label": [round(value or 0.0, 4) for value in (label.value, label.low, label.high)],
        "fresh": round(fresh.value, 4),
        "queries": fresh.queries,
        "kept": fresh.value >= label.low,
        "exact": index.exact,
        "build_seconds": round(seconds, 1),
    }


@click.command(help=__doc__)
@click.argument("crops", type=click.Path(exists=True, path_type=Path))
@click.option("--indexes", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(crops: Path, indexes: int, seed: int, as_json: bool) -> None:
    """Measure the recall of all indexes on new queries and print it; exit with 1 if too many indexes miss their
    recall."""
    half = indexes // 2
    found: list[dict[str, Any]] = []
    for number, case in enumerate(chain(of_clusters(half, seed), of_crops(crops, indexes - half, seed))):
        found.append(measure(case, GOALS[number % len(GOALS)], seed + number))
        if not as_json:
            print(found[-1], flush=True)
    broken = sum(not one["kept"] for one in found)
    exact = sum(one["exact"] for one in found)
    told = {"indexes": found, "below_the_label": broken, "allowed": ALLOWED, "exact": exact}
    print(json.dumps(told if as_json else {name: value for name, value in told.items() if name != "indexes"}, indent=2))
    sys.exit(broken > ALLOWED or exact > indexes // 2)


if __name__ == "__main__":
    main()
