"""The functions that ``featstore bench --store`` measures, each in its own process: MB of vectors per second."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.sources.base import Chunk
from featstore.store import FeatureStore, Identity, shards
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan
from featstore.store.planner import Planner
from featstore.store.shards import Finished
from featstore.store.writer import open_for_writing

_BLOCK_ROWS: Final = 4096
_GATHERED: Final = 10_000
_SCANS: Final = 3


class _Made:
    """A source of ``rows`` placeholder pictures, whose content is never read."""

    kind, location, root = "folder", "/", Path("/")
    layout: str | None = "flat"
    ignored = 0
    read_as = unfound = ""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.notes: list[str] = []

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "location": "/", "root": "/", "layout": "flat"}

    def chunks(self, rows: int = 65536) -> Iterator[Chunk]:
        for start in range(0, self.rows, rows):
            numbers = np.arange(start, min(start + rows, self.rows))
            n = len(numbers)
            keys = [b"%09d.jpg" % number for number in numbers.tolist()]
            yield Chunk(keys, numbers, numbers, np.full(n, -1), None, [None] * n, [None] * n, {})


def _rows(megabytes: int, dimension: int, dtype: str) -> int:
    return max(1, (megabytes << 20) // (dimension * np.dtype(dtype).itemsize))


def _blocks(rows: int, dimension: int, dtype: str) -> list[NDArray[Any]]:
    """Return ``rows`` random vectors as a list of blocks, all views of one array to save memory.

    The file contains the same block again and again; this changes no result, because disks do not compress repetitions.
    """
    block = np.random.default_rng(0).standard_normal((min(rows, _BLOCK_ROWS), dimension), np.float32).astype(dtype)
    return [block[: min(_BLOCK_ROWS, rows - start)] for start in range(0, rows, _BLOCK_ROWS)]


def _identity(dimension: int, dtype: str) -> Identity:
    return Identity("made-up", "none", dimension, "0" * 64, {"crop": 224}, "pillow", "fp32", dtype)


def _plain(path: Path, blocks: list[NDArray[Any]]) -> None:
    with open(path, "wb", buffering=0) as file:
        for block in blocks:
            view = block.reshape(-1).view(np.uint8).data
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())


def _planned(path: Path, rows: int, dimension: int, dtype: str) -> tuple[Manifest, Finished]:
    """Create a store with one unit (rows of one shard); return its manifest, and the shard's data without vectors."""
    manifest = open_for_writing(path, _identity(dimension, dtype), "made up", rows)
    Planner(path, manifest.epoch, manifest.unit_rows).update(_Made(rows))
    plan = Plan(path, manifest.epoch)
    (unit,) = plan.units()
    planned = plan.rows(unit)
    sums = np.zeros((rows, 32), np.uint8)
    nothing = np.empty((0, 32), np.uint8)
    return manifest, Finished(unit.number, planned.ids, planned.views, planned.keys, sums, [], [], nothing)


def _shard(path: Path, manifest: Manifest, finished: Finished, blocks: list[NDArray[Any]]) -> Path:
    shard = shards.shard_path(path, finished.unit)
    shards.write_shard(shard, manifest.identity, manifest.store_id, finished, blocks, [])
    return shard


def prepare(directory: str, *, dtype: str, megabytes: int, dimension: int) -> int:
    """Write the same vectors to a store and to a plain file, for ``scan`` and ``gather``.

    Returns the number of rows that ``gather`` will read.
    """
    rows, place = _rows(megabytes, dimension, dtype), Path(directory)
    blocks = _blocks(rows, dimension, dtype)
    _plain(place / f"{dtype}.bin", blocks)
    store = place / f"{dtype}.store"
    _shard(store, *_planned(store, rows, dimension, dtype), blocks)
    return min(rows, _GATHERED)


def write(directory: str, *, dtype: str, megabytes: int, dimension: int, kind: str) -> dict[str, Any]:
    """Measure writing one shard; if ``kind`` is "plain", measure write() and fsync of the same vectors instead."""
    rows, place = _rows(megabytes, dimension, dtype), Path(directory)
    blocks = _blocks(rows, dimension, dtype)
    store = place / "written"
    if kind == "plain":
        written = store
        started = time.perf_counter()
        _plain(store, blocks)
    else:
        made = _planned(store, rows, dimension, dtype)
        started = time.perf_counter()
        written = _shard(store, *made, blocks)
    seconds = time.perf_counter() - started
    size = written.stat().st_size
    _remove(store)
    return {"rate": _megabytes(rows, dimension, dtype) / seconds, "bytes": size}


def scan(directory: str, *, dtype: str, megabytes: int, dimension: int, kind: str) -> dict[str, Any]:
    """Measure copying all vectors from the store's blocks, or from a memory map if ``kind`` is "plain".

    The files are in the page cache.
    """
    rows, place = _rows(megabytes, dimension, dtype), Path(directory)
    buffer = np.empty((_BLOCK_ROWS, dimension), dtype)
    plain = np.memmap(place / f"{dtype}.bin", dtype, "r", shape=(rows, dimension)) if kind == "plain" else None
    store = FeatureStore.open(place / f"{dtype}.store") if plain is None else None

    def blocks() -> Iterator[NDArray[Any]]:
        if store is not None:
            yield from store.blocks(block_rows=_BLOCK_ROWS)
        elif plain is not None:
            for start in range(0, rows, _BLOCK_ROWS):
                yield plain[start : start + _BLOCK_ROWS]

    seconds = 0.0
    for number in range(1 + _SCANS):
        started, seen = time.perf_counter(), 0
        for block in blocks():
            buffer[: len(block)] = block
            seen += len(block)
        if number:
            seconds += time.perf_counter() - started
    return {"rate": _SCANS * _megabytes(rows, dimension, dtype) / seconds, "rows": seen}


def gather(directory: str, *, dtype: str, megabytes: int, dimension: int, kind: str) -> dict[str, Any]:
    """Measure reading rows in random order from the store, or from a memory map if ``kind`` is "plain"."""
    rows, place = _rows(megabytes, dimension, dtype), Path(directory)
    wanted = np.random.default_rng(1).choice(rows, min(rows, _GATHERED), replace=False)
    if kind == "plain":
        plain = np.memmap(place / f"{dtype}.bin", dtype, "r", shape=(rows, dimension))
        plain.sum(dtype=np.float64)
        started = time.perf_counter()
        found = np.asarray(plain[wanted])
    else:
        store = FeatureStore.open(place / f"{dtype}.store")
        for block in store.blocks():
            block.sum(dtype=np.float64)
        started = time.perf_counter()
        found = store.features(rows=wanted)
    seconds = time.perf_counter() - started
    return {"rate": _megabytes(len(found), dimension, dtype) / seconds, "rows": len(found)}


def _megabytes(rows: int, dimension: int, dtype: str) -> float:
    return rows * dimension * np.dtype(dtype).itemsize / 1e6


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
