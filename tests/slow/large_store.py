"""Measure time and memory of opening a synthetic store of many rows, listing its keys and looking up rows.

    python -m tests.slow.large_store [--rows 10000000] [--store DIR]

featstore's planner and shard writer write the store; each vector has 4 random values.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from featstore.sources.base import Chunk
from featstore.store import FeatureStore, Identity, shards
from featstore.store.plan import Plan
from featstore.store.planner import Planner
from featstore.store.shards import Finished
from featstore.store.writer import open_for_writing
from tests.slow.watching import anonymous_bytes

IDENTITY = Identity("made-up", "input of fc", 4, "0" * 64, {"crop": 224}, "pillow", "fp32", "float16")


class Made:
    """A folder source of ``rows`` synthetic pictures in 1,000 classes."""

    kind = "folder"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "location": "/made/up", "root": "/made/up", "layout": "class"}

    def chunks(self, rows: int = 65536) -> Iterator[Chunk]:
        for start in range(0, self.rows, rows):
            numbers = np.arange(start, min(start + rows, self.rows))
            classes = [f"class_{number * 1000 // self.rows:03d}" for number in numbers.tolist()]
            keys = [f"{c}/picture_{n:09d}.jpg".encode() for c, n in zip(classes, numbers.tolist(), strict=True)]
            none: list[str | None] = [None] * len(keys)
            yield Chunk(keys, numbers + 1000, numbers, np.full(len(keys), -1), None, [*classes], none, {})


def write(path: Path, rows: int) -> None:
    manifest = open_for_writing(path, IDENTITY, "made up", 65536)
    Planner(path, manifest.epoch, manifest.unit_rows).update(Made(rows))
    random = np.random.default_rng(0)
    plan = Plan(path, manifest.epoch)
    for unit in plan.units():
        planned = plan.rows(unit)
        n = len(unit)
        sums = random.integers(0, 256, (n, 32), dtype=np.uint8)
        finished = Finished(
            unit.number, planned.ids, planned.views, planned.keys, sums, [], [], np.empty((0, 32), np.uint8)
        )
        blocks = [random.normal(size=(n, 4)).astype(np.float16)]
        shards.write_shard(shards.shard_path(path, unit.number), IDENTITY, manifest.store_id, finished, blocks, [])


@click.command()
@click.option("--rows", default=10_000_000, show_default=True)
@click.option("--store", type=click.Path(path_type=Path), help="Keep the store here, and use the one that is there.")
def main(rows: int, store: Path | None) -> None:
    """Measure opening a large store, listing its keys and looking up rows; print a line for each."""
    with tempfile.TemporaryDirectory() as place:
        path = store or Path(place) / "store"

        def timed(what: str, run: Callable[[], Any]) -> Any:
            before = anonymous_bytes()
            started = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - started
            print(
                f"{what:<44}{seconds:10.4f} s   anonymous memory {(anonymous_bytes() - before) / 2**20:+9.1f} MiB",
                flush=True,
            )
            return result

        if not (path / "featstore.json").exists():
            timed(f"plan and write {rows:,} rows", lambda: write(path, rows))
        opened: FeatureStore = timed("open", lambda: FeatureStore.open(path))
        assert len(opened) == rows
        random = np.random.default_rng(1)
        some = random.integers(0, rows, 100_000)
        one = opened.keys[rows // 2]
        timed("look up one key, first time", lambda: opened.index_of([one]))
        timed("look up one key again", lambda: opened.index_of([one]))
        keys = timed("read 100,000 keys at random", lambda: list(opened._key_bytes(some)))
        found = timed("look up 100,000 keys", lambda: opened.index_of(keys))
        assert (found == some).all()
        timed("list all keys (streamed)", lambda: sum(1 for _ in opened.keys))
        timed("ids of all rows", lambda: opened.ids)
        timed("labels of all rows", lambda: opened.labels)
        timed("10,000 vectors at random", lambda: opened.features(rows=random.integers(0, rows, 10_000)))
        timed("scan all vectors (streamed)", lambda: sum(float(block[0, 0]) for block in opened.blocks()))
        timed("plan again, nothing changed", lambda: Planner(path, 0, 65536).update(Made(rows)))
    sys.exit(0)


if __name__ == "__main__":
    main()
