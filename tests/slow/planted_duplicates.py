"""Precision and recall of ``featstore duplicates`` on planted copies: ``python -m tests.slow.planted_duplicates FOLDER...``.

All pictures below the FOLDERs become the split "train" of a new store; of a sample of them three copies each, half as
large, as JPEG of quality 40, and cropped by 5 % on every side, become its split "test". Prints one JSON object: for the
default threshold and some others, the share of copies that are in a group with their original (recall), the share of
the pairs in groups that are copies of one another (precision), and the same for the pairs listed as leaks.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageOps

from featstore import defaults
from featstore.sources.base import is_picture_name
from featstore.stages.duplicates import DuplicateReport, find_duplicates
from featstore.stages.extract import extract


def copies(path: Path) -> Iterator[tuple[str, Image.Image, dict[str, Any]]]:
    """Yield (name, picture, how to save it) of each copy of the picture at ``path``."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    wide, high = image.size
    yield "half.png", image.resize((max(1, wide // 2), max(1, high // 2)), Image.Resampling.LANCZOS), {}
    yield "q40.jpg", image, {"quality": 40}
    x, y = round(0.05 * wide), round(0.05 * high)
    yield "cropped.png", image.crop((x, y, wide - x, high - y)), {}


def plant(folders: tuple[str, ...], place: Path, sample: int, seed: int) -> None:
    """Write the pictures to ``place``/train and the copies of a sample to ``place``/test."""
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*") if is_picture_name(bytes(path)))
    drawn = set(random.Random(seed).sample(range(len(paths)), min(sample, len(paths))))
    for part in ("train", "test"):
        (place / part).mkdir(parents=True)
    for number, path in enumerate(paths):
        shutil.copy(path, place / "train" / f"{number:06d}{path.suffix}")
        for name, image, options in copies(path) if number in drawn else ():
            image.save(place / "test" / f"{number:06d}.{name}", **options)


def original(key: str) -> str:
    """Return the number of the picture that ``key`` is, or is a copy of."""
    return Path(key).name[:6]


def measure(report: DuplicateReport) -> dict[str, Any]:
    """Return precision and recall of a report on a planted store."""
    planted = [key for key in report.store.keys if key.startswith("test/")]
    found: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    for group in report.groups:
        keys = [copy.key for copy in group.copies]
        pairs += combinations(keys, 2)
        originals = {original(key) for key in keys if key.startswith("train/")}
        for key in keys:
            if key.startswith("test/") and original(key) in originals:
                found[key.split(".", 1)[1]] = found.get(key.split(".", 1)[1], 0) + 1
    strange = sorted((one, other) for one, other in pairs if original(one) != original(other))
    right = [original(pair.one.key) == original(pair.other.key) for pair in report.leaks]
    leaked = {pair.other.key for pair in report.leaks} | {pair.one.key for pair in report.leaks}
    return {
        "recall": round(sum(found.values()) / len(planted), 4),
        "recall_by_kind": {name: round(3 * count / len(planted), 4) for name, count in sorted(found.items())},
        "precision": round(1 - len(strange) / max(1, len(pairs)), 4),
        "wrong_pairs": len(strange),
        "examples": strange[:5],
        "leak_recall": round(len(leaked & set(planted)) / len(planted), 4),
        "leak_precision": round(sum(right) / max(1, len(right)), 4),
    }


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--sample", default=300, show_default=True, help="Pictures of which copies are planted.")
@click.option("--seed", default=0, show_default=True)
@click.option("--place", type=click.Path(), help="Keep pictures and store here (default: nowhere).")
def main(folders: tuple[str, ...], backbone: str, sample: int, seed: int, place: str | None) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(place or temporary)
        if not (where / "pictures").exists():
            plant(folders, where / "pictures", sample, seed)
        extract(where / "pictures", where / "planted.store", backbone=backbone)
        found = {
            f"{threshold:g}": measure(find_duplicates(where / "planted.store", threshold=threshold))
            for threshold in sorted({0.7, 0.75, 0.85, 0.9, 0.95, defaults.DUPLICATE_COSINE})
        }
    print(json.dumps({"default": defaults.DUPLICATE_COSINE, "thresholds": found}, indent=2))


if __name__ == "__main__":
    main()
