"""Flip single bits in all files of a store, a head and an index, and return what ``verify`` finds for each flip."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

from featstore.errors import FeatstoreError
from featstore.heads import load_head
from featstore.indexes import FeatureIndex
from featstore.stages.verify import verify
from featstore.store import FeatureStore


def whole_of(folder: Path, file: Path) -> Path:
    """Return the store, head or index that a file belongs to."""
    return folder / "store" if (folder / "store") in file.parents else file


def flips(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, int, int, list[str]]]:
    """Yield (file, byte, bit, findings of verify) for ``count`` flipped bits; undo each flip afterwards.

    Files are taken in turn, bytes and bits at random. The readers also run on each damaged file: they may raise
    FeatstoreError or not notice the damage, but must not fail in any other way.
    """
    draw = random.Random(seed)
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.stat().st_size  # skip empty files, such as the marks in the folder written/
        and "pictures" not in file.relative_to(folder).parts
        and "work" not in file.relative_to(folder).parts
    )
    for number in range(count):
        file = files[number % len(files)]
        at, bit = draw.randrange(file.stat().st_size), draw.randrange(8)
        _flip(file, at, bit)
        try:
            _read(folder)
            yield file, at, bit, [str(problem) for problem in verify(whole_of(folder, file)).problems]
        finally:
            _flip(file, at, bit)


def _flip(file: Path, at: int, bit: int) -> None:
    with open(file, "r+b") as handle:
        handle.seek(at)
        byte = handle.read(1)[0]
        handle.seek(at)
        handle.write(bytes([byte ^ (1 << bit)]))


def _read(folder: Path) -> None:
    with contextlib.suppress(FeatstoreError):
        store = FeatureStore.open(folder / "store")
        for block in store.blocks():
            block.sum()
        list(store.keys)
        store.failures()
        store.to_pandas()
        store.index_of([b"cat/00.png"], missing="mark")
    for path, reader in ((folder / "a.head", load_head), (folder / "an.index", FeatureIndex.open)):
        with contextlib.suppress(FeatstoreError):
            reader(path)
