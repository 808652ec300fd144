"""Measure an extraction of whole feature maps: bytes, seconds, the share of writing, and peak memory.

    python -m tests.slow.maps PICTURES [--small 250] [--large 1000] [--backbone resnet50] [--layer layer3]

PICTURES: a folder with at least ``--large`` pictures, such as dogs-vs-cats/train. Runs ``extract --layer LAYER --pool
none`` with random weights on both numbers of pictures, each in its own process and into a new store. Prints bytes and
seconds, the share of writing, and the peak of anonymous memory. A thread of its own writes while the network runs, so
there are two shares: the seconds in which the run waited for this thread, of the run's seconds; and the processor time
of this thread, of the processor time of the extraction. The seconds of the thread are printed too; they include waiting
for the disk and for a free core. The exit code is 1 if one of the shares is 10 % or more, or if the peak with the large number is more than 1.2 times the peak with the small one.
A run of at least 256 pictures also compares the engine with plain torch, which takes 35 MiB more; beyond that the peak
depends on how many of the batches that may wait are waiting at the same time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from featstore.stages.bench.pictures import gather
from tests.slow.watching import anonymous_peak

MOST_WRITING: Final = 0.1
MOST_GROWTH: Final = 1.2


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Return ``function`` with the processor time of each call added to ``seconds``."""

    def call(*arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return function(*arguments)
        finally:
            seconds.append(time.thread_time() - began)

    return call


def child(folder: str, store: str, backbone: str, layer: str) -> None:
    """Extract the maps in this process and print the figures as JSON."""
    from featstore.stages.extract import extract
    from featstore.store.writer import UnitWriter

    seconds: list[float] = []
    for name in ("append", "commit"):
        setattr(UnitWriter, name, timed(getattr(UnitWriter, name), seconds))
    with anonymous_peak() as memory:
        report = extract(
            folder, store, supervised=False, backbone=backbone, weights="random:0", layer=layer, pool="none"
        )
    figures = {"vectors": report.vectors, "seconds": report.seconds, "peak": memory.peak, "timings": report.timings}
    print(json.dumps({**figures, "writing": sum(seconds)}))


def measured(place: Path, pictures: Path, count: int, backbone: str, layer: str) -> dict[str, Any]:
    """Extract ``count`` pictures in a process of its own and return its figures, with the ``bytes`` of the store."""
    folder, store = place / f"pictures-{count}", place / f"{count}.store"
    folder.mkdir()
    gather(str(pictures), count, folder)
    command = [sys.executable, "-m", "tests.slow.maps", str(pictures), "--child", str(folder), str(store)]
    output = subprocess.run(
        [*command, "--backbone", backbone, "--layer", layer], check=True, stdout=subprocess.PIPE
    ).stdout
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return {**json.loads(output), "bytes": size}


@click.command()
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option("--small", default=250, show_default=True)
@click.option("--large", default=1_000, show_default=True)
@click.option("--backbone", default="resnet50", show_default=True)
@click.option("--layer", default="layer3", show_default=True)
@click.option("--child", "as_child", nargs=2, type=str, hidden=True)
def main(pictures: Path, small: int, large: int, backbone: str, layer: str, as_child: tuple[str, str] | None) -> None:
    """Extract the small and the large number of pictures and print the figures; exit with 1 if one misses."""
    if as_child:
        child(*as_child, backbone, layer)
        return
    peaks, missed = [], False
    with tempfile.TemporaryDirectory(prefix="featstore-maps-") as name:
        for count in (small, large):
            found = measured(Path(name), pictures, count, backbone, layer)
            timings, seconds = found["timings"], found["seconds"]
            waited, processor = timings["blocked"] / seconds, found["writing"] / timings["processor"]
            missed |= max(waited, processor) >= MOST_WRITING or found["vectors"] != count
            peaks.append(found["peak"])
            print(
                f"{found['vectors']:>6,} pictures: {found['bytes'] / 1e6:,.1f} MB in {seconds:.1f} s; the run waited "
                f"{timings['blocked']:.2f} s = {waited:.1%} for writing, which took {found['writing']:.2f} s = "
                f"{processor:.1%} of the processor time (less than {MOST_WRITING:.0%} is required of both) and "
                f"{timings['write']:.2f} s of its thread; peak anonymous memory {found['peak'] / 2**20:,.0f} MiB",
                flush=True,
            )
    growth = peaks[1] / peaks[0]
    print(f"ratio of the peaks {growth:.3f} (at most {MOST_GROWTH} is required)")
    sys.exit(1 if missed or growth > MOST_GROWTH else 0)


if __name__ == "__main__":
    main()
