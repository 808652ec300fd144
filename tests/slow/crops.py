"""Write feature vectors of random crops of pictures: ``python -m tests.slow.crops FOLDER... OUT.npz``.

Each picture below the FOLDERs is decoded once; if pictures have equal bytes, only the first by name is used. A crop has
12 to 80 % of the picture's area and an aspect ratio from 3/4 to 4/3, like the crops of C. Szegedy et al. (CVPR 2015),
but with a narrower range of areas. ``--each`` is the number of crops per picture; the random seed of a picture is made
of ``--seed`` and the picture's position among all pictures.

OUT has one row per crop: ``features`` float16 (n, d), computed by the backbone with the default engine and the input
size of the backbone; ``gray`` uint8 (n, 784), the crop as 28 x 28 gray pixels; and ``pictures`` int32 (n,), the
position of the crop's picture among all pictures. tests.slow.peers and tests.slow.contract_holds read this file.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from featstore.backbones import load_backbone
from featstore.engines import Pending, open_engine
from featstore.sources.base import is_picture_name

_SHARES = (0.12, 0.8)
_ASPECTS = (3 / 4, 4 / 3)
_GRAY = 28
_BATCH = 64


def distinct(folders: Sequence[str]) -> list[Path]:
    """Return the pictures below ``folders``, sorted by name; if pictures have equal bytes, only the first of them."""
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*") if is_picture_name(bytes(path)))
    return list({hashlib.sha256(path.read_bytes()).digest(): path for path in reversed(paths)}.values())[::-1]


def boxes(size: tuple[int, int], count: int, seed: Sequence[int]) -> Iterator[tuple[float, float, float, float]]:
    """Yield ``count`` random boxes (left, upper, right, lower) within a picture of ``size``."""
    random = np.random.default_rng(seed)
    width, height = size
    while count:
        area = random.uniform(*_SHARES) * width * height
        aspect = math.exp(random.uniform(*(math.log(aspect) for aspect in _ASPECTS)))
        wide, high = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if wide <= width and high <= height:
            left, upper = random.uniform(0, width - wide), random.uniform(0, height - high)
            yield left, upper, left + wide, upper + high
            count -= 1


def crops(
    path: Path, count: int, seed: Sequence[int], side: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield ``count`` crops of a picture: RGB (side, side, 3) and gray (784,)."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    for box in boxes(image.size, count, seed):
        crop = image.resize((side, side), Image.Resampling.BICUBIC, box)
        gray = crop.convert("L").resize((_GRAY, _GRAY), Image.Resampling.BOX)
        yield np.asarray(crop), np.asarray(gray).reshape(-1)


@click.command(help=__doc__)
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.argument("out", type=click.Path(dir_okay=False))
@click.option("--each", default=27, show_default=True, help="Crops of a picture.")
@click.option("--backbone", "name", default="efficientnet_lite0", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(folders: tuple[str, ...], out: str, each: int, name: str, seed: int) -> None:
    """Compute the features of all crops, write OUT, and print a summary as one JSON object."""
    start = time.perf_counter()
    backbone = load_backbone(name)
    engine = open_engine(backbone)
    paths = distinct(folders)
    total, side = len(paths) * each, backbone.preprocessing.crop
    features, gray = np.empty((total, engine.dimension), np.float16), np.empty((total, _GRAY**2), np.uint8)
    batch = np.empty((_BATCH, side, side, 3), np.uint8)
    under_way: deque[tuple[int, Pending]] = deque()

    def collect(left: int) -> None:
        while len(under_way) > left:
            first, pending = under_way.popleft()
            found = pending.result()
            features[first : first + len(found)] = found

    everything = (crop for number, path in enumerate(paths) for crop in crops(path, each, (seed, number), side))
    for row, (pixels, small) in enumerate(everything):
        gray[row], batch[row % _BATCH] = small, pixels
        if (row + 1) % _BATCH == 0 or row + 1 == total:
            first = row - row % _BATCH
            under_way.append((first, engine.submit(batch[: row + 1 - first])))
            collect(engine.in_flight)
    collect(0)
    pictures = np.repeat(np.arange(len(paths), dtype=np.int32), each)
    with Path(out).open("wb") as file:
        np.savez(file, features=features, gray=gray, pictures=pictures)
    seconds = round(time.perf_counter() - start, 1)
    about = {"pictures": len(paths), "crops": total, "dimension": engine.dimension, "seconds": seconds}
    print(json.dumps({**about, **engine.provenance()}))


if __name__ == "__main__":
    main()
