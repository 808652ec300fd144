"""Data for tests, made as a user makes it: coloured pictures of two classes, a store, heads and an index."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from tests.made import extract, tiny_backbone

COLOURS = {"ant": (190, 70, 60), "bee": (60, 90, 190), "cow": (70, 180, 80)}


def write_coloured(folder: Path, names: list[str], seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Write a noisy picture to ``folder``/name for each name; its colour is that of its class (its parent folder)."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng((seed, number))
        noise = random.normal(0, 30, (size[1], size[0], 3)) + COLOURS[path.parent.name]
        Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(path)
    return folder


def names(split: str, count: int, classes: tuple[str, ...] = ("ant", "bee")) -> list[str]:
    """Return ``count`` names per class, such as train/ant/00.png, or ant/00.png if ``split`` is ""."""
    return [os.path.join(split, label, f"{number:02d}.png") for label in classes for number in range(count)]


def make_store(folder: Path, store: Path, **options: object) -> Path:
    """Extract ``folder`` into ``store`` with the tiny backbone; return ``store``."""
    extract(folder, store, **{"backbone": tiny_backbone(), "batch": 8, **options})
    return store
