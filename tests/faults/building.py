"""Make a small store with two units, failures and labels, compacted once, and a head and an index of this store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from featstore.store.labels import set_columns
from tests.made import extract, tiny_backbone, write_pictures

NAMES = [f"{kind}/{number:02d}.png" for kind in ("cat", "dog") for number in range(8)]


def small_store(folder: Path) -> Path:
    """Make pictures and store below ``folder``; return the store's path."""
    pictures = write_pictures(folder / "pictures", NAMES)
    (pictures / "cat" / "bad.jpg").write_bytes(b"no picture")
    store = folder / "store"
    extract(pictures, store, backbone=tiny_backbone(), batch=4, unit_rows=6, workers=1)
    set_columns(store, [b"cat/00.png", b"dog/01.png"], {"quality": [1, 2]})
    return store


def copy_of(master: Path, to: Path) -> Path:
    """Return a copy of the small store; it still refers to the same pictures."""
    shutil.copytree(master, to)
    return to


def make_head(store: Path, path: Path) -> Path:
    """Train and save a head on the labels of the store."""
    from featstore.heads import save_head, train_head
    from featstore.store import FeatureStore

    opened = FeatureStore.open(store)
    save_head(path, train_head(opened.features(), np.asarray(opened.labels, str), kind="logreg", C=1.0))
    return path


def make_index(store: Path, path: Path) -> Path:
    from featstore.indexes import build_index
    from featstore.store import FeatureStore

    opened = FeatureStore.open(store)
    build_index(opened.features(), opened.ids, list(opened.keys)).save(path)
    return path
