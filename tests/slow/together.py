"""Check the time and the results of one extraction with two backbones at once, which decodes each picture once.

    python -m tests.slow.together [PICTURES] [--pictures 24] [--rounds 3]

PICTURES: a folder of large JPEGs; by default 24 synthetic JPEGs of 6000 x 4000 pixels. Each round measures, in this
order: decoding all pictures once for both backbones, in as many threads as an extraction uses; the forward passes of
both backbones on the decoded pictures; the extraction with both backbones, without start-up; and one extraction per
backbone. Required: the median over the rounds of the extraction with both backbones is at most 1.1 times the sum of
decoding and forward passes, and its stores equal those of separate extractions. The exit code is 1 if a requirement is
missed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from featstore.backbones import load_backbone
from featstore.decode import DECODER, load_rgb, open_fitting
from featstore.engines import open_engine
from featstore.stages.extract import ExtractOptions, extract_in_process
from featstore.stages.extract.jobs import Job, extract_jobs
from featstore.store import FeatureStore

BOUND = 1.1
BACKBONES = (("efficientnet_lite0", None), ("resnet50", "random:0"))


def make(folder: Path, count: int) -> None:
    """Write ``count`` JPEGs of 6000 x 4000 pixels with detail at all scales."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).resize((6000, 4000)), np.uint16
            )
            for size in (8, 64, 512)
        ]
        Image.fromarray((sum(layers) // 3).astype(np.uint8)).save(folder / f"{number:02d}.jpg", quality=92)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


@click.command()
@click.argument("pictures", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--pictures", "count", default=24, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--batch", default=8, show_default=True)
def main(pictures: Path | None, count: int, rounds: int, batch: int) -> None:
    """Extract in rounds and print the times; exit with 1 if the bound is missed or if a store differs from the expected
    one."""
    with tempfile.TemporaryDirectory() as place:
        folder = pictures or Path(place) / "pictures"
        if pictures is None:
            make(folder, count)
        files = sorted(path for path in folder.rglob("*.jp*g"))[:count]
        backbones = [load_backbone(name, weights) for name, weights in BACKBONES]
        engines = [open_engine(each) for each in backbones]
        fit, threads = open_fitting(DECODER), os.cpu_count() or 1

        def decoded(path: Path) -> list[Any]:
            image = load_rgb(path.read_bytes())
            return [fit(image, each.preprocessing) for each in backbones]

        def forward() -> None:
            for at, engine in enumerate(engines):
                for start in range(0, len(files), batch):
                    engine.submit(np.stack([each[at] for each in small[start : start + batch]])).result()

        ratios, saved = [], []
        for number in range(rounds):
            with ThreadPoolExecutor(threads) as pool:
                decode, small = seconds(lambda: list(pool.map(decoded, files)))
            forward()
            passes, _ = seconds(forward)
            stores = [Path(place) / f"{number}-{at}.store" for at in range(2)]
            options = [ExtractOptions(backbone=each, batch=batch) for each in backbones]
            listed = Path(place) / "list.txt"
            listed.write_text("\n".join(map(str, files)))
            reports = extract_jobs([Job(listed, *pair) for pair in zip(stores, options, strict=True)])
            both = max(report.seconds - report.timings["startup"] for report in reports)
            alone = 0.0
            for at, store in enumerate(stores):
                own = Path(place) / f"{number}-{at}.own"
                report = extract_in_process(listed, own, options[at])
                alone += report.seconds - report.timings["startup"]
                same = FeatureStore.open(own).features().tobytes() == FeatureStore.open(store).features().tobytes()
                if not same:
                    print(f"{store} differs from its own run")
                    sys.exit(1)
            ratios.append(both / (decode + passes))
            saved.append(both / alone)
            print(
                f"round {number}: decode {decode:.2f} s, forward passes {passes:.2f} s, both stores {both:.2f} s "
                f"({ratios[-1]:.2f} of the sum), the stores one by one {alone:.2f} s ({saved[-1]:.2f})",
                flush=True,
            )
        ratio = statistics.median(ratios)
        print(
            f"median {ratio:.2f} of one decode and both passes (bound {BOUND}), {statistics.median(saved):.2f} of two runs"
        )
        sys.exit(ratio > BOUND)


if __name__ == "__main__":
    main()
