"""Time an epoch of the multilayer perceptron beside its bare matrix products, and measure the memory of its training.

    python -m tests.slow.mlp [--rows 25000] [--dimension 2048] [--classes 10] [--turns 7] [--store-dir DIR]

Writes a store of synthetic float16 features, and trains ``--head mlp`` on it for three epochs in a fresh process. The
peak anonymous memory of this process is measured. Another process alternately times an epoch (training on four fifths
of the rows, evaluation on the held-out fifth) and the matrix products alone: forward and backward of both layers for
the training rows, and forward for the held-out rows, with PyTorch and as many threads. Required are a median of the
turns' ratios of at most 1.5 and at most 2 GiB; the exit code is 1 if one of these is missed.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from featstore import defaults
from featstore.stages.train import train
from tests.slow.million_rows import write
from tests.slow.watching import anonymous_peak

MOST_RATIO, MOST_BYTES = 1.5, 2 << 30
_PIECE = 10
"""Number of mini-batches trained in one timing, which alternates with a timing of the same number of matrix
products."""


def trained(store: str, out: str) -> dict[str, Any]:
    """Train a head on ``store``; return the peak of anonymous memory in bytes and the seconds of the training."""
    with anonymous_peak() as memory:
        report = train(store, head="mlp", out=out, epochs=3, patience=3)
    return {"peak": memory.peak, "rows": len(report.split.train), "seconds": report.seconds["train"]}


def timed(rows: int, dimension: int, classes: int, turns: int) -> dict[str, Any]:
    """Return, for each turn, the seconds of an epoch of training and of the matrix products of an epoch."""
    import torch

    from featstore.heads.solvers.perceptron import Network, Plan, Targets

    random = np.random.default_rng(0)
    values = random.standard_normal((rows, dimension), np.float32)
    order = random.permutation(rows)
    held_out, training = np.split(order, [int(rows * defaults.MLP_VALIDATION)])
    targets = Targets(random.integers(0, classes, rows), np.ones(rows, np.float32), held_out)
    hidden = defaults.MLP_HIDDEN[0]
    plan = Plan((hidden,), classes, defaults.MLP_DROPOUT, 10, 10, 1e-3, 1e-2, defaults.MLP_BATCH)
    network = Network(dimension, plan, random)

    first, second = torch.randn(hidden, dimension), torch.randn(classes, hidden)
    data = torch.from_numpy(values)
    inner, outer = torch.randn(rows, hidden), torch.randn(rows, classes)

    def products(count: int) -> None:
        for part in np.array_split(np.arange(count), math.ceil(count / plan.batch_size)):
            batch = slice(int(part[0]), int(part[-1]) + 1)
            torch.mm(data[batch], first.T)
            torch.mm(inner[batch], second.T)
            torch.mm(outer[batch].T, inner[batch])
            torch.mm(outer[batch], second)
            torch.mm(inner[batch].T, data[batch])

    def judging() -> None:
        for start in range(0, len(held_out), 1024):
            torch.mm(torch.mm(data[start : start + 1024], first.T), second.T)

    found: dict[str, Any] = {"epoch": [], "products": [], "threads": torch.get_num_threads()}
    for turn in range(turns + 1):
        pieces = np.array_split(random.permutation(training), math.ceil(len(training) / (_PIECE * plan.batch_size)))
        runs: list[tuple[Callable[[], object], Callable[[], object]]] = [
            (partial(network.learn, values, targets, piece, 1e-3), partial(products, len(piece))) for piece in pieces
        ]
        runs.append((partial(network.decide, values, held_out), judging))
        # The speed of a shared machine changes within seconds, so the timings alternate between parts of an epoch and
        # the matrix products of these parts.
        seconds = [[_seconds(run) for run in pair] for pair in runs]
        if turn:
            found["epoch"].append(sum(one for one, _ in seconds))
            found["products"].append(sum(one for _, one in seconds))
    return found


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def child(*arguments: object) -> dict[str, Any]:
    """Run this file in a fresh process with ``arguments`` and return its result."""
    command = [sys.executable, "-m", "tests.slow.mlp", "--child", json.dumps(arguments)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return result


@click.command()
@click.option("--rows", default=25_000, show_default=True)
@click.option("--dimension", default=2048, show_default=True)
@click.option("--classes", default=10, show_default=True)
@click.option("--turns", default=7, show_default=True)
@click.option("--store-dir", type=click.Path(exists=True), help="Where the store is made, for the time of the run.")
@click.option("--child", "as_child", hidden=True)
def main(rows: int, dimension: int, classes: int, turns: int, store_dir: str | None, as_child: str | None) -> None:
    """Compare the time of an epoch with that of its matrix products, and measure the memory of training."""
    if as_child:
        name, *arguments = json.loads(as_child)
        print(json.dumps({"trained": trained, "timed": timed}[name](*arguments)))
        return
    with tempfile.TemporaryDirectory(dir=store_dir) as place:
        store = Path(place) / "made.store"
        write(store, rows, dimension, classes, seed=0)
        memory = child("trained", str(store), str(Path(place) / "a.head"))
    speed = child("timed", rows, dimension, classes, turns)
    ratios = [one / other for one, other in zip(speed["epoch"], speed["products"], strict=True)]
    ratio, epoch, products = map(statistics.median, (ratios, speed["epoch"], speed["products"]))
    print(
        f"{rows:,} x {dimension}, {speed['threads']} threads, median of {turns} turns: epoch {epoch:.2f} s, products "
        f"{products:.2f} s; ratio {ratio:.2f} (from {min(ratios):.2f} to {max(ratios):.2f}; at most {MOST_RATIO} is asked for)"
    )
    print(
        f"training on {memory['rows']:,} rows: peak anonymous memory {memory['peak'] / 2**30:.2f} GiB (at most "
        f"{MOST_BYTES / 2**30:.0f} is asked for)"
    )
    sys.exit(ratio > MOST_RATIO or memory["peak"] > MOST_BYTES)


if __name__ == "__main__":
    main()
