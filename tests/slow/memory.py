"""Measure peak anonymous memory and time per picture of an extraction, for two numbers of pictures.

    python -m tests.slow.memory [--small 5000] [--large 50000]

Each extraction runs in its own process, with small PNG pictures, a tiny network and a new store. The exit code is 1 if
the large extraction has more than 1.1 times the peak memory of the small one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from tests.slow.watching import anonymous_peak


def child(folder: str, store: str) -> None:
    from tests.made import extract, tiny_backbone

    backbone = tiny_backbone()
    with anonymous_peak(every=0.01) as memory:
        started = time.perf_counter()
        report = extract(folder, store, backbone=backbone, batch=64)
        seconds = time.perf_counter() - started
    print(json.dumps({"images": report.images, "vectors": report.vectors, "seconds": seconds, "peak": memory.peak}))


def write_pictures(folder: Path, count: int) -> None:
    """Write ``count`` PNG files of 16 x 16 pixels, 1,000 per sub-folder."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


@click.command()
@click.option("--small", default=5_000, show_default=True)
@click.option("--large", default=50_000, show_default=True)
@click.option("--child", "as_child", nargs=2, type=str, hidden=True)
def main(small: int, large: int, as_child: tuple[str, str] | None) -> None:
    """Extract the small and the large folder and compare the peak memory; exit with 1 if the large one takes too
    much."""
    if as_child:
        child(*as_child)
        return
    results = []
    with tempfile.TemporaryDirectory() as place:
        for count in (small, large):
            folder = Path(place) / str(count)
            write_pictures(folder, count)
            command = [
                sys.executable,
                "-m",
                "tests.slow.memory",
                "--child",
                str(folder),
                str(Path(place) / f"{count}.store"),
            ]
            output = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
            ).stdout
            results.append(json.loads(output))
    for result in results:
        each = result["seconds"] / result["images"] * 1e3
        print(
            f"{result['images']:>7,} images: peak anonymous memory {result['peak'] / 2**20:7.1f} MiB, {each:.3f} ms a picture"
        )
    ratio = results[1]["peak"] / results[0]["peak"]
    print(f"ratio of the peaks {ratio:.3f} (at most 1.1 is asked for)")
    sys.exit(ratio > 1.1)


if __name__ == "__main__":
    main()
