"""Train a logistic head on more rows than fit into memory; check total time, memory, time per row and the optimum.

    python -m tests.slow.million_rows --store-dir DIR [--rows 1000000] [--json]

Writes two stores of synthetic float16 features into DIR: a large one with ``--rows`` rows and a small one with a tenth
of that (4.6 GB in all by default). Heads are trained through ``featstore.stages.train.train``, each in a fresh process:

* on both stores, streamed: no row is kept in memory. The regularisation per row is the same (C times rows is constant);
* on the small store, streamed and in memory, with a tighter tolerance than the default. If the two objectives still
  differ, the reason is different optima, not an early stop.

Required for the large store: at most 15 minutes, 2 GiB of anonymous memory, and a time per row at most 10 % above that
of the small store. Required for the small store: streaming gives the same objective as training in memory (to 1e-7),
and the same labels except for one row in 10,000. The exit code is 1 if a requirement is missed. The stores are removed
at the end unless --keep is given. It takes five to six minutes on two cores, half of this time to write the stores.

The features resemble those of a ResNet's penultimate layer: Gaussian latent variables with decreasing variances, a
random linear map, and a ReLU. featstore's planner and shard writer write the stores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from featstore.artifacts import open_head
from featstore.heads.calibration import log_softmax
from featstore.heads.evaluation.report import codes_of
from featstore.heads.solvers.blocks import measure
from featstore.sources.base import Chunk
from featstore.stages.train import train
from featstore.store import FeatureStore, Identity, shards
from featstore.store.plan import Plan
from featstore.store.planner import Planner
from featstore.store.shards import Finished
from featstore.store.writer import open_for_writing, unit_rows_for
from tests.slow.watching import anonymous_peak

WAYS: dict[str, dict[str, Any]] = {
    "streamed": {"memory_limit": 0},
    "streamed, tight": {"memory_limit": 0, "tol": 1e-8},
    "in memory, tight": {"tol": 1e-8},
}
HELD_OUT = 10_000
"""Number of rows of the split "test" in each store; these rows follow those of the split "train"."""
BLOCK = 4096
LATENT = 512
MOST_SECONDS, MOST_BYTES, MOST_GROWTH, MOST_GAP = 900.0, 2 << 30, 1.10, 1e-7
MOST_LABELS = 1e-4
"""Share of rows whose label may differ between streaming and training in memory.

Rounding decides the label of a row on the boundary between two classes.
"""


class Made:
    """A source of ``rows`` synthetic pictures to train on and HELD_OUT pictures to test on."""

    kind = "folder"

    def __init__(self, rows: int, classes: int, seed: int) -> None:
        self.rows, self.codes = rows, codes_of_rows(rows + HELD_OUT, classes, seed)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "location": "/made/up", "root": "/made/up", "layout": "split/class"}

    def chunks(self, rows: int = 65536) -> Iterator[Chunk]:
        for start in range(0, len(self.codes), rows):
            numbers = np.arange(start, min(start + rows, len(self.codes)))
            labels: list[str | None] = [f"class {code:04d}" for code in self.codes[numbers].tolist()]
            splits: list[str | None] = ["train" if number < self.rows else "test" for number in numbers.tolist()]
            keys = [f"{number:09d}.jpg".encode() for number in numbers.tolist()]
            yield Chunk(keys, numbers + 1000, numbers, np.full(len(keys), -1), None, labels, splits, {})


def codes_of_rows(rows: int, classes: int, seed: int) -> NDArray[np.intp]:
    """Return the class number (n,) of each row."""
    blocks = [
        np.random.default_rng((seed, 1, start)).integers(0, classes, min(BLOCK, rows - start))
        for start in range(0, rows, BLOCK)
    ]
    return np.concatenate(blocks)


class Maker:
    """Generate the features block by block, with one random seed per block of rows."""

    def __init__(self, dimension: int, classes: int, seed: int) -> None:
        random = np.random.default_rng((seed, 0))
        self.dimension, self.classes, self.seed = dimension, classes, seed
        self.scales = np.arange(1, LATENT + 1, dtype=np.float32) ** -0.5
        self.centres = (random.standard_normal((classes, LATENT)) * 0.15).astype(np.float32)
        self.mixing = random.standard_normal((LATENT, dimension)).astype(np.float32)
        self.offset = random.standard_normal(dimension).astype(np.float32)

    def block(self, start: int, codes: NDArray[np.intp]) -> NDArray[np.float16]:
        """Return the features (m, d) of a block of rows that begins at ``start``, a multiple of BLOCK."""
        random = np.random.default_rng((self.seed, 2, start))
        latent = random.standard_normal((len(codes), LATENT), dtype=np.float32)
        latent += self.centres[codes]
        latent *= self.scales
        features = latent @ self.mixing
        features += self.offset
        features += 0.3 * random.standard_normal(features.shape, dtype=np.float32)
        return np.maximum(features, 0, out=features).astype(np.float16)


def write(path: Path, rows: int, dimension: int, classes: int, seed: int) -> None:
    """Write a store of ``rows`` rows to train on and HELD_OUT rows to test on."""
    identity = Identity("made-up", "input of fc", dimension, "0" * 64, {"crop": 224}, "pillow", "fp32", "float16")
    unit_rows = unit_rows_for(identity)
    manifest = open_for_writing(path, identity, "made up", unit_rows)
    source, maker = Made(rows, classes, seed), Maker(dimension, classes, seed)
    Planner(path, manifest.epoch, manifest.unit_rows).update(source)
    random = np.random.default_rng((seed, 3))
    plan, first = Plan(path, manifest.epoch), 0
    for unit in plan.units():
        planned, n = plan.rows(unit), len(unit)
        sums = random.integers(0, 256, (n, 32), dtype=np.uint8)
        finished = Finished(
            unit.number, planned.ids, planned.views, planned.keys, sums, [], [], np.empty((0, 32), np.uint8)
        )
        starts = range(first, first + n, BLOCK)
        blocks = (maker.block(at, source.codes[at : min(at + BLOCK, first + n)]) for at in starts)
        shards.write_shard(shards.shard_path(path, unit.number), identity, manifest.store_id, finished, blocks, [])
        first += n


def child(store: str, out: str, C: float, how: str) -> dict[str, Any]:
    """Train a head on ``store`` with ``train(..., **WAYS[how])`` and write it; return time, memory and accuracy."""
    with anonymous_peak() as memory:
        started = time.perf_counter()
        trained = train(store, head="logreg", C=C, out=out, **WAYS[how])
        seconds = time.perf_counter() - started
    rows, passes = len(trained.split.train), int(trained.head.meta["passes"])
    return {
        "rows": rows,
        "C": C,
        "seconds": seconds,
        "steps": trained.seconds,
        "passes": passes,
        "microseconds_a_row": seconds / rows * 1e6,
        "microseconds_a_row_and_pass": trained.seconds["train"] / rows / passes * 1e6,
        "anonymous_bytes": memory.peak,
        "accuracy": trained.report.accuracy.value,
    }


def objective(head_path: Path, store: FeatureStore, rows: NDArray[np.int64], C: float) -> tuple[float, list[str]]:
    """Return the objective of a head on ``rows``, computed in float64, and the labels that the head predicts."""
    head = open_head(head_path)
    scaler = measure(store.stream(rows), standardize=True)[0]
    codes = codes_of(store.labels[rows].astype(str), head.classes)
    loss, start, labels = 0.0, 0, []
    for block in store.blocks(rows, block_rows=BLOCK):
        values = head.decision_function(block.astype(np.float64)).reshape(len(block), -1)
        own = log_softmax(values)[np.arange(len(block)), codes[start : start + len(block)]]
        loss -= float(own.sum())
        labels += head.predict(block).tolist()
        start += len(block)
    weights = head.model.arrays()["coef"] * scaler.scale
    return 0.5 * float((weights**2).sum()) + C * loss, labels


def run(store: Path, out: Path, C: float, how: str) -> dict[str, Any]:
    """Call the function ``child``, which trains a head, in a new process and return its result."""
    command = [sys.executable, "-m", "tests.slow.million_rows", "--store-dir", str(store.parent)]
    command += ["--child", str(store), str(out), str(C), how]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def compare(store: Path, heads: tuple[Path, Path], C: float) -> dict[str, Any]:
    """Compare a streamed head with one trained in memory, on the training rows of ``store``: objectives and labels."""
    opened = FeatureStore.open(store)
    rows = opened.split_rows("train")
    (streamed, labels), (in_memory, expected) = (objective(head, opened, rows, C) for head in heads)
    return {
        "objective_streamed": streamed,
        "objective_in_memory": in_memory,
        "gap": abs(streamed - in_memory) / in_memory,
        "labels_that_differ": sum(one != other for one, other in zip(labels, expected, strict=True)),
    }


def verdicts(found: dict[str, Any], share: float) -> list[tuple[str, bool]]:
    """Return for each bound a text with the measured value and the bound, and whether the bound holds.

    ``share``: largest allowed share of rows whose labels differ between streaming and training in memory.
    """
    small, large, same = found["small"], found["large"], found["optimum"]
    growth = large["microseconds_a_row"] / small["microseconds_a_row"]
    gib = large["anonymous_bytes"] / 2**30
    return [
        (
            f"{large['rows']:,} rows in {large['seconds']:.1f} s; at most {MOST_SECONDS:g}",
            large["seconds"] <= MOST_SECONDS,
        ),
        (f"{gib:.2f} GiB of anonymous memory; at most {MOST_BYTES / 2**30:g}", large["anonymous_bytes"] <= MOST_BYTES),
        (
            f"cost a row {growth:.3f} times that of {small['rows']:,} rows; at most {MOST_GROWTH:g}",
            growth <= MOST_GROWTH,
        ),
        (f"objective {same['gap']:.1e} from that in memory; at most {MOST_GAP:g}", same["gap"] <= MOST_GAP),
        (
            f"{same['labels_that_differ']} of {small['rows']:,} labels differ from those in memory; at most {share:g} of them",
            same["labels_that_differ"] <= share * small["rows"],
        ),
    ]


@click.command()
@click.option("--store-dir", type=click.Path(path_type=Path), required=True)
@click.option("--rows", default=1_000_000, show_default=True, help="Of the large store; the small one has a tenth.")
@click.option("--dimension", default=2048, show_default=True)
@click.option("--classes", default=10, show_default=True)
@click.option("--c", "C", default=1e-4, show_default=True, help="Of the large store; the small one gets ten times it.")
@click.option("--seed", default=0, show_default=True)
@click.option("--keep", is_flag=True, help="Keep the stores, and use those that are there.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--child", "as_child", nargs=4, type=str, hidden=True)
def main(
    store_dir: Path,
    rows: int,
    dimension: int,
    classes: int,
    C: float,
    seed: int,
    keep: bool,
    as_json: bool,
    as_child: tuple[str, str, str, str] | None,
) -> None:
    """Write the stores, train the heads and print the results; exit with 1 if a bound is missed."""
    if as_child:
        print(json.dumps(child(as_child[0], as_child[1], float(as_child[2]), as_child[3])))
        return
    store_dir.mkdir(parents=True, exist_ok=True)
    stores = {size: store_dir / f"made-{size}x{dimension}-{classes}-{seed}.store" for size in (rows // 10, rows)}
    heads = [store_dir / f"{name}.head" for name in ("small", "streamed", "in-memory", "large")]
    try:
        for size, path in stores.items():
            if not (keep and path.exists()):
                shutil.rmtree(path, ignore_errors=True)
                write(path, size, dimension, classes, seed)
        small, large = stores.values()
        found: dict[str, Any] = {
            "small": run(small, heads[0], 10 * C, "streamed"),
            "tight": run(small, heads[1], 10 * C, "streamed, tight"),
            "tight_in_memory": run(small, heads[2], 10 * C, "in memory, tight"),
            "large": run(large, heads[3], C, "streamed"),
            "optimum": compare(small, (heads[1], heads[2]), 10 * C),
        }
    finally:
        for head in heads:
            head.unlink(missing_ok=True)
        for path in stores.values() if not keep else ():
            shutil.rmtree(path, ignore_errors=True)
    checked = verdicts(found, MOST_LABELS)
    if as_json:
        print(json.dumps({**found, "verdicts": [{"bound": text, "holds": holds} for text, holds in checked]}, indent=2))
    else:
        for name in ("small", "tight", "tight_in_memory", "large"):
            one = found[name]
            print(
                f"{name:<16} {one['rows']:>9,} rows  {one['seconds']:7.1f} s  {one['microseconds_a_row']:7.1f} us a row, "
                f"{one['microseconds_a_row_and_pass']:.2f} in each of {one['passes']} passes  "
                f"{one['anonymous_bytes'] / 2**30:.2f} GiB  accuracy {one['accuracy']:.4f}"
            )
        for text, holds in checked:
            print(("holds   " if holds else "MISSED  ") + text)
    sys.exit(not all(holds for _, holds in checked))


if __name__ == "__main__":
    main()
