"""Check extraction of regions (boxes and tiles) of pictures.

Required: the vector of a box equals that of a saved crop; each picture is decoded once; train-test split and folds
never separate regions of one picture; the tiles of a large TIFF are extracted within 1 GiB of memory.

    python -m tests.slow.regions PICTURES [--pictures 200] [--boxes 10] [--side 20000] [--million]

PICTURES: a folder with a folder for each class, such as `featstore sample hymenoptera` writes. Needs the extra
``tiff``. --side: width and height of the TIFF in pixels. --million: also plan 100,000 and 1,000,000 boxes of 1,000
synthetic pictures, without extracting them, and print time and peak memory.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

BOUND = 1 << 30
BOXES = ("x", "y", "w", "h")


def write_boxes(folder: Path, path: Path, pictures: int, boxes: int) -> None:
    """Write a CSV table with ``boxes`` random boxes for each of ``pictures`` pictures, in random order."""
    from featstore.store.cutting import measure

    random, rows = np.random.default_rng(0), []
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    for file in [files[at] for at in random.permutation(len(files))[:pictures]]:
        name = file.relative_to(folder)
        width, height = measure(folder, str(name).encode(), -1, 1) or (0, 0)
        for _ in range(boxes):
            x, y = (int(random.integers(0, side - 32)) for side in (width, height))
            w, h = int(random.integers(16, width - x + 1)), int(random.integers(16, height - y + 1))
            rows.append((str(name), x, y, w, h, name.parts[-2]))
    random.shuffle(rows)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("path", *BOXES, "label"), *rows])


def check_boxes(folder: Path, place: Path, pictures: int, boxes: int) -> None:
    """Compare the vectors of boxes with those of saved crops, count decodes, and check that no picture has regions
    on both sides of a split."""
    from featstore import splits
    from featstore.decode import load_rgb, regions
    from featstore.stages.extract import ExtractOptions, extract_in_process
    from featstore.store import FeatureStore
    from featstore.store.splitting import groups_of, split_store

    write_boxes(folder, place / "boxes.csv", pictures, boxes)
    decodes = 0

    def counted(data: bytes, **options: int):
        nonlocal decodes
        decodes += 1
        return load_rgb(data, **options)

    regions.load_rgb = counted
    # Use torch: before using another engine, featstore compares it with torch and decodes some pictures a second time.
    how = {"backbone": "efficientnet_lite0", "engine": "torch"}
    options = ExtractOptions(**how, boxes=BOXES, root=str(folder))
    report = extract_in_process(place / "boxes.csv", place / "boxes.store", options)
    store = FeatureStore.open(place / "boxes.store")
    crops = place / "crops"
    crops.mkdir()
    columns = [store.column(name).tolist() for name in ("parent", *BOXES)]
    for number, (parent, x, y, w, h) in enumerate(zip(*columns, strict=True)):
        load_rgb((folder / parent).read_bytes()).crop((x, y, x + w, y + h)).save(crops / f"{number:06d}.png")
    own = extract_in_process(crops, place / "crops.store", ExtractOptions(**how))
    same = np.asarray(FeatureStore.open(place / "crops.store").features()).tobytes()
    equal = same == np.asarray(store.features()).tobytes()
    print(
        f"{report.vectors:,} boxes of {pictures} pictures: {decodes} decodes, vectors "
        f"{'equal' if equal else 'DIFFER from'} those of PNG crops bit for bit; {report.seconds:.1f} s beside {own.seconds:.1f} s"
    )
    split = split_store(store)
    both = set(store.parents[split.train]) & set(store.parents[split.test])
    fold = splits.folds(store.labels.astype(str), groups=groups_of(store, np.arange(len(store))), count=5, seed=0)
    torn = sum(len(set(fold[store.parents == parent])) > 1 for parent in set(store.parents))
    print(f"pictures on both sides of the split: {len(both)}; pictures in two of five folds: {torn}")
    if not equal or decodes != pictures or both or torn or report.vectors != pictures * boxes:
        sys.exit(1)


def write_tiff(path: Path, side: int) -> None:
    """Write a tiled BigTIFF of ``side`` x ``side`` pixels."""
    import tifffile

    random = np.random.default_rng(0)
    noise = random.integers(0, 64, (512, 512, 3), np.uint8)

    def tiles():
        for y in range(0, side, 512):
            for x in range(0, side, 512):
                yield noise + np.uint8((x // 512 + y // 512) % 192)

    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side, 3),
        dtype="uint8",
        tile=(512, 512),
        photometric="rgb",
        compression="zlib",
        bigtiff=True,
    )


def measured(code: str, *arguments: object) -> dict[str, float]:
    """Run ``code`` in its own process and return its dict ``told``, with two more items: "peak" (peak memory in bytes)
    and "seconds" (duration of the process).
    """
    started = time.perf_counter()
    tail = "\nimport json,resource; print(json.dumps({**told, 'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))"
    done = subprocess.run(
        [sys.executable, "-c", code + tail, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": time.perf_counter() - started}


EXTRACT = """
import sys
from featstore.stages.extract import ExtractOptions, extract_in_process
options = ExtractOptions(backbone="efficientnet_lite0", tiles=256)
report = extract_in_process(sys.argv[1], sys.argv[2], options)
told = {"vectors": report.vectors, "failures": report.failures}
"""
PLAN = """
import sys
from featstore.embed.units import Run
from featstore.stages.extract import ExtractOptions, extract_in_process
Run.go = lambda *a, **k: None
report = extract_in_process(sys.argv[1], sys.argv[2], ExtractOptions(backbone="efficientnet_lite0", boxes=("x", "y", "w", "h")))
told = {"images": report.images}
"""


def plan_boxes(place: Path, count: int) -> None:
    """Plan ``count`` boxes of 1,000 pictures, and print time and memory."""
    from PIL import Image

    folder = place / f"{count}"
    folder.mkdir()
    with open(folder / "t.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", *BOXES, "label"))
        for number in range(1000):
            Image.new("RGB", (640, 480), (number % 256, 0, 0)).save(folder / f"{number:04d}.jpg")
            for at in range(count // 1000):
                writer.writerow((f"{number:04d}.jpg", at % 600, at % 400, 20 + at % 20, 30, f"class {at % 10}"))
    told = measured(PLAN, folder / "t.csv", place / f"{count}.store")
    print(
        f"{count:,} boxes of 1,000 pictures planned in {told['seconds']:.1f} s, peak memory {told['peak'] / 2**20:.0f} MiB",
        flush=True,
    )


@click.command()
@click.argument("pictures", type=click.Path(path_type=Path, exists=True))
@click.option("--pictures", "count", default=200, show_default=True)
@click.option("--boxes", default=10, show_default=True)
@click.option("--side", default=20_000, show_default=True)
@click.option("--million", is_flag=True)
def main(pictures: Path, count: int, boxes: int, side: int, million: bool) -> None:
    """Check the extraction of regions and print the results; exit with 1 if a check fails."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if side:
            (place / "tiff").mkdir()
            write_tiff(place / "tiff/large.tif", side)
            told = measured(EXTRACT, place / "tiff", place / "tiff.store")
            print(
                f"TIFF of {side:,} x {side:,}: {told['vectors']:,} vectors of tiles, {told['failures']:,} failures, peak memory "
                f"{told['peak'] / 2**20:.0f} MiB (bound {BOUND >> 20}), {told['seconds']:.1f} s",
                flush=True,
            )
            if told["peak"] > BOUND or told["failures"] or told["vectors"] != (-(-side // 256)) ** 2:
                sys.exit(1)
        if million:
            plan_boxes(place, 100_000)
            plan_boxes(place, 1_000_000)
        check_boxes(pictures, place, count, boxes)


if __name__ == "__main__":
    main()
