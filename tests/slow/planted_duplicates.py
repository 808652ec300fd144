"""Measure how many copies of pictures are found as near-duplicates: ``python -m tests.slow.planted_duplicates
FOLDER...``.

Each FOLDER is measured separately. All its pictures go into a new store; for a sample of the pictures, one copy of each
kind in KINDS, such as "quality-50" or "mirrored", goes into this store too. Prints one JSON object. For each FOLDER and
for several thresholds of the cosine, including the default, it has

* for each kind of copy, the share of the copies that are in one group with their original. Copies of the other kinds
  are left out, because these could link a copy to its original;
* the number of groups, and of pictures in these groups, if all copies are left out. These groups count as wrong.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from featstore import defaults
from featstore.indexes import near_duplicates
from featstore.sources.base import is_picture_name
from featstore.store import FeatureStore
from tests.made import extract


def _half(image: Image.Image) -> Image.Image:
    wide, high = image.size
    return image.resize((max(1, wide // 2), max(1, high // 2)), Image.Resampling.LANCZOS)


def _cropped(image: Image.Image, share: float) -> Image.Image:
    """Return ``image`` with ``share`` of its width cut off on the left and right, and of its height at top and
    bottom."""
    x, y = round(share * image.width), round(share * image.height)
    return image.crop((x, y, image.width - x, image.height - y))


KINDS: dict[str, tuple[str, Callable[[Image.Image], Image.Image], dict[str, Any]]] = {
    "another-format": ("png", lambda image: image, {}),
    "quality-50": ("jpg", lambda image: image, {"quality": 50}),
    "quality-20": ("jpg", lambda image: image, {"quality": 20}),
    "half-size": ("png", _half, {}),
    "half-size-quality-50": ("jpg", _half, {"quality": 50}),
    "quarter-size": ("png", lambda image: _half(_half(image)), {}),
    "crop-5": ("png", lambda image: _cropped(image, 0.05), {}),
    "crop-10": ("png", lambda image: _cropped(image, 0.1), {}),
    "brighter": ("png", lambda image: ImageEnhance.Brightness(image).enhance(1.3), {}),
    "gray": ("png", lambda image: image.convert("L"), {}),
    "mirrored": ("png", ImageOps.mirror, {}),
}
"""The changed copies of a picture, by name: file extension, function that changes the picture, options of Image.save.
"""


def copies(path: Path) -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    """Yield (file name, picture, options of Image.save) of each copy of the picture at ``path``."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    for name, (ending, change, options) in KINDS.items():
        yield f"{name}.{ending}", change(image), options


def plant(folder: str, place: Path, sample: int, seed: int) -> None:
    """Write the pictures below ``folder`` to ``place``/train, and copies of a random sample of them to
    ``place``/test."""
    paths = sorted(path for path in Path(folder).rglob("*") if is_picture_name(bytes(path)))
    drawn = set(random.Random(seed).sample(range(len(paths)), min(sample, len(paths))))
    for part in ("train", "test"):
        (place / part).mkdir(parents=True)
    for number, path in enumerate(paths):
        shutil.copy(path, place / "train" / f"{number:06d}{path.suffix}")
        for name, image, options in copies(path) if number in drawn else ():
            image.save(place / "test" / f"{number:06d}.{name}", **options)


def original(key: str) -> str:
    """Return the number of the original picture from the key of the original or of one of its copies."""
    return Path(key).name[:6]


def measure(store: FeatureStore, threshold: float) -> dict[str, Any]:
    """Find near-duplicates with a cosine of at least ``threshold`` in a store that contains planted copies.

    Return the share of copies found, and the groups, as described in the module's docstring.
    """
    keys = list(store.keys)
    features = np.asarray(store.features(), np.float32)
    kinds = np.array([Path(key).stem.split(".", 1)[1] if key.startswith("test/") else "" for key in keys])
    alone = near_duplicates(features[kinds == ""], threshold).groups
    recall = {}
    for kind in KINDS:
        rows = np.flatnonzero((kinds == "") | (kinds == kind))
        found = 0
        for group in near_duplicates(features[rows], threshold).groups:
            members = [keys[row] for row in rows[group]]
            originals = {original(key) for key in members if key.startswith("train/")}
            found += sum(key.startswith("test/") and original(key) in originals for key in members)
        recall[kind] = round(found / int((kinds == kind).sum()), 3)
    return {"recall": recall, "groups_without_copies": len(alone), "pictures_in_them": sum(map(len, alone))}


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--sample", default=150, show_default=True, help="Pictures of each set of which copies are planted.")
@click.option("--seed", default=0, show_default=True)
@click.option("--place", type=click.Path(), help="Keep pictures and stores here (default: nowhere).")
def main(folders: tuple[str, ...], backbone: str, sample: int, seed: int, place: str | None) -> None:
    """Add changed copies of pictures to each folder, measure which are found as duplicates, and print one JSON
    object."""
    found: dict[str, Any] = {}
    thresholds = sorted({0.7, 0.75, 0.8, 0.85, defaults.DUPLICATE_COSINE})
    with tempfile.TemporaryDirectory() as temporary:
        for number, folder in enumerate(folders):
            where = Path(place or temporary) / str(number)
            if not (where / "pictures").exists():
                plant(folder, where / "pictures", sample, seed)
            extract(where / "pictures", where / "planted.store", backbone=backbone)
            store = FeatureStore.open(where / "planted.store")
            found[Path(folder).name] = {f"{threshold:g}": measure(store, threshold) for threshold in thresholds}
    print(json.dumps({"default": defaults.DUPLICATE_COSINE, "sets": found}, indent=2))


if __name__ == "__main__":
    main()
