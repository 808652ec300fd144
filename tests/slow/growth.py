"""Compare time per picture and peak memory of extractions of few and of many pictures with EfficientNet-Lite0.

    python -m tests.slow.growth PICTURES [--small 2000] [--large 50000] [--rounds 3]

Hard links to the same pictures make up the larger number. The small extraction runs ``rounds`` times before the large
one and ``rounds`` times after it, because the speed of the machine may change meanwhile; the median of these runs is
used. Each extraction runs in a fresh process and into a new store. The time is measured from the first picture until
the store is on disk. Required: the wall-clock times per picture of the small and the large extraction differ by at most
5 %; the peak of anonymous memory of the large extraction is at most 1.1 times that of the small one. The exit code is 1
if a requirement is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from featstore.stages.bench.pictures import gather
from featstore.stages.bench.rounds import apart
from tests.slow.watching import anonymous_peak


def extraction(folder: str) -> dict[str, Any]:
    """Extract ``folder`` into a temporary store; return wall-clock seconds, processor seconds and peak memory."""
    from featstore.embed.progress import Progress
    from tests.made import extract

    begun = list[tuple[float, float]]()

    def tell(_: Progress) -> None:
        if not begun:
            begun.append((time.perf_counter(), time.process_time()))

    with anonymous_peak() as memory, tempfile.TemporaryDirectory(prefix="growth-") as place:
        report = extract(folder, Path(place) / "store", backbone="efficientnet_lite0", progress=tell)
        seconds, processor = time.perf_counter() - begun[0][0], time.process_time() - begun[0][1]
    return {"vectors": report.vectors, "seconds": seconds, "processor": processor, "peak": memory.peak}


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--small", default=2_000, show_default=True)
@click.option("--large", default=50_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(pictures: str, small: int, large: int, rounds: int) -> None:
    """Extract few and many pictures and print time and memory; exit with 1 if a requirement is missed."""
    with tempfile.TemporaryDirectory(prefix="growth-") as place:
        folders = {count: Path(place) / str(count) for count in (small, large)}
        for folder in folders.values():
            folder.mkdir()
        distinct, _ = gather(pictures, small, folders[small])
        files = sorted(folders[small].iterdir())[:distinct]
        for number in range(large):
            os.link(files[number % distinct], folders[large] / f"{number:06d}.jpg")
        runs: dict[int, list[dict[str, Any]]] = {small: [], large: []}
        for count in [small] * rounds + [large] + [small] * rounds:
            found = apart("tests.slow.growth:extraction", {"folder": str(folders[count])}, f"{count:,} pictures")
            runs[count].append(found)
            click.echo(json.dumps({"pictures": count, **found}), err=True)
    costs, busy, peaks = (
        {count: statistics.median(value(run) / run["vectors"] for run in found) for count, found in runs.items()}
        for value in (
            lambda run: run["seconds"],
            lambda run: run["processor"],
            lambda run: run["peak"] * run["vectors"],
        )
    )
    for count in (small, large):
        print(
            f"{count:>7,} pictures: {1e3 * costs[count]:.2f} ms a picture, {1e3 * busy[count]:.2f} ms of the processors, "
            f"peak of anonymous memory {peaks[count] / 2**20:.0f} MiB"
        )
    cost, memory = costs[large] / costs[small], peaks[large] / peaks[small]
    print(f"cost a picture {cost:.3f} times (0.95 to 1.05 asked), of the processors {busy[large] / busy[small]:.3f}")
    print(f"memory {memory:.3f} times (1.1 asked)")
    sys.exit(not 0.95 <= cost <= 1.05 or memory > 1.1)


if __name__ == "__main__":
    main()
