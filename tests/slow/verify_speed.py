"""Compare the speed of verify with that of reading the same files sequentially and computing the same checksum.

Verify and the plain read run alternately in fresh processes, first with the files in the page cache (warm), then
without (cold).

python -m tests.slow.verify_speed FOLDER [GIB]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tests.store.building import Pictures, identity, plan

ROUNDS, D, UNIT_ROWS = 5, 2048, 1 << 15
_PLAIN = """
import sys, time, xxhash
started = time.perf_counter()
total = 0
for path in sys.argv[1:]:
    digest, buffer = xxhash.xxh3_128(), bytearray(4 << 20)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
            total += count
print(total / (time.perf_counter() - started))
"""
_VERIFY = """
import sys, time
from featstore.store.repair.verify import verify_store
started = time.perf_counter()
report = verify_store(sys.argv[1])
assert not report.problems
print(report.bytes / (time.perf_counter() - started))
"""


def make(folder: Path, gib: float) -> Path:
    """Write a store with ``gib`` GiB of random vectors; return its path."""
    from featstore.store import shards
    from featstore.store.manifest import Manifest
    from featstore.store.plan import Plan

    store = folder / "verify-speed.store"
    n = int(gib * 2**30 / (4 * D))
    source = Pictures({f"{number:08d}".encode(): 0 for number in range(n)}, chunk_rows=65536)
    kind = identity(dimension=D)
    plan(store, source, identity=kind, unit_rows=UNIT_ROWS)
    manifest = Manifest.read(store)
    opened = Plan(store, manifest.epoch)
    random = np.random.default_rng(0)
    for unit in opened.units():
        rows, m = opened.rows(unit), len(unit)
        finished = shards.Finished(
            unit.number,
            rows.ids,
            rows.views,
            rows.keys,
            np.zeros((m, 32), np.uint8),
            [],
            [],
            np.empty((0, 32), np.uint8),
        )
        blocks = (random.random((min(4096, m - start), D), np.float32) for start in range(0, m, 4096))
        shards.write_shard(shards.shard_path(store, unit.number), kind, manifest.store_id, finished, blocks, [])
    return store


def forget(files: list[str]) -> None:
    """Drop ``files`` from the page cache."""
    for name in files:
        with open(name, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(folder: Path, gib: float) -> None:
    """Measure verify and the plain read in rounds and print the median speeds."""
    store = make(folder, gib)
    files = [str(file) for file in sorted(store.rglob("*")) if file.is_file()]
    subprocess.run(["sync"], check=True)
    for cache in ("warm", "cold"):
        speeds: dict[str, list[float]] = {"plain": [], "verify": []}
        for _ in range(ROUNDS):
            for name, command in (("plain", [_PLAIN, *files]), ("verify", [_VERIFY, str(store)])):
                if cache == "cold":
                    forget(files)
                time.sleep(0.1)
                speeds[name].append(float(subprocess.check_output([sys.executable, "-c", *command])))
        plain, verify = (statistics.median(speeds[name]) for name in ("plain", "verify"))
        print(
            f"{cache}: plain read with XXH3-128 {plain / 1e9:.2f} GB/s, verify {verify / 1e9:.2f} GB/s: {verify / plain:.2f}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.0)
