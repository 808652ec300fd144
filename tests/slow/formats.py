"""Measure speed and memory of reading a large store by ``to_arrow``, ``as_torch`` and the export to Parquet.

    python -m tests.slow.formats --dir DIR [--rows 1000000] [--dimension 2048] [--json]

Writes three stores of synthetic float16 vectors into DIR, with ``--rows`` rows, a tenth and a fiftieth of that number
(4.6 GB by default), and exports of these stores (at most 4.1 GB more). All files are removed at the end. About 9 GB of
memory should be free for the page cache. Required, each measured in a fresh process:

* ``to_arrow`` adds less than 64 MiB to the peak of anonymous memory; the import of pyarrow does not count;
* the export to Parquet has at least half the speed of a plain write and fsync of the same number of bytes; such a write
  follows each part of the export. The peak of anonymous memory is less than 64 MiB higher for all rows than for a
  tenth;
* exports that are killed at 10 points and resumed equal an uninterrupted export byte by byte (on the smallest store);
* a shuffled epoch of ``as_torch`` reads at 0.8 or more of the rate at which numpy gathers the same rows, in the same
  batches, from a memory-mapped .npy file of the same vectors. The two are measured in turn, batch by batch.

The exit code is 1 if a requirement is missed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from featstore.sources.base import Chunk
from featstore.store import FeatureStore, Identity, shards
from featstore.store.exporting import export_store
from featstore.store.plan import Plan
from featstore.store.planner import Planner
from featstore.store.shards import Finished
from featstore.store.writer import open_for_writing
from tests.slow.watching import anonymous_bytes, anonymous_peak

UNIT_ROWS = 65_536
BATCH = 1024
KILLS = 10
TURNS = 3
MEMORY, SPEED, RATE = 64 << 20, 0.5, 0.8


class Made:
    """A folder source of ``rows`` synthetic pictures in 100 classes."""

    kind = "folder"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "location": "/made/up", "root": "/made/up", "layout": "class"}

    def chunks(self, rows: int = 65536) -> Iterator[Chunk]:
        for start in range(0, self.rows, rows):
            numbers = np.arange(start, min(start + rows, self.rows))
            classes = [f"class_{number % 100:02d}" for number in numbers.tolist()]
            keys = [f"{c}/{n:09d}.jpg".encode() for c, n in zip(classes, numbers.tolist(), strict=True)]
            splits: list[str | None] = ["train"] * len(keys)
            yield Chunk(keys, numbers + 1000, numbers, np.full(len(keys), -1), None, [*classes], splits, {})


def write(path: Path, rows: int, dimension: int, unit_rows: int) -> None:
    """Write a store with featstore's planner and shard writer.

    All units (rows of one shard) hold the same random rows, shifted by a different number of rows in each unit.
    """
    identity = Identity("made-up", "input of fc", dimension, "0" * 64, {"crop": 224}, "pillow", "fp32", "float16")
    manifest = open_for_writing(path, identity, "made up", unit_rows)
    Planner(path, manifest.epoch, manifest.unit_rows).update(Made(rows))
    random = np.random.default_rng(0)
    # Clear one bit of the exponent, so that every random float16 is finite.
    bits = random.integers(0, 1 << 16, (min(rows, unit_rows), dimension), np.uint16) & 0xBFFF
    block = bits.view(np.float16)
    plan = Plan(path, manifest.epoch)
    for unit in plan.units():
        planned, n = plan.rows(unit), len(unit)
        sums = random.integers(0, 256, (n, 32), dtype=np.uint8)
        finished = Finished(
            unit.number, planned.ids, planned.views, planned.keys, sums, [], [], np.empty((0, 32), np.uint8)
        )
        start = unit.number % len(block)
        parts: list[NDArray[Any]] = [block[start:][:n], block[:start][: max(0, n - (len(block) - start))]]
        shards.write_shard(
            shards.shard_path(path, unit.number),
            identity,
            manifest.store_id,
            finished,
            [p for p in parts if len(p)],
            [],
        )


def arrow(store: Path) -> dict[str, Any]:
    """Run ``to_arrow``; return seconds and by how much anonymous memory grew, at the peak and afterwards."""
    import pyarrow
    from pyarrow import compute

    opened = FeatureStore.open(store)
    # Use pyarrow once, so that memory that it takes at its first use is not counted.
    compute.equal(pyarrow.array([1]), 1)
    before = anonymous_bytes()
    started = time.perf_counter()
    with anonymous_peak(0.005) as watched:
        table = opened.to_arrow()
    return {
        "rows": table.num_rows,
        "seconds": time.perf_counter() - started,
        "bytes": watched.peak - before,
        "kept": anonymous_bytes() - before,
    }


def parquet(store: Path, out: Path, beside: Path | None = None) -> dict[str, Any]:
    """Export a store to Parquet; return seconds, bytes, and the peak of anonymous memory.

    ``beside``: after each part of the export, write the same number of bytes to this file; "plain" in the result is the
    seconds that these writes took.
    """
    opened = FeatureStore.open(store)
    block, plain, before = np.random.default_rng(0).integers(0, 256, 8 << 20, np.uint8).data, 0.0, 0

    def write_plainly(*_: int) -> None:
        nonlocal plain, before
        total = sum(path.stat().st_size for path in out.glob("part-*.parquet"))
        if beside is not None:
            plain += plain_write(beside, total - before, block)
        before = total

    started = time.perf_counter()
    with anonymous_peak() as watched:
        made = export_store(opened, out, "parquet", write_plainly)
    seconds = time.perf_counter() - started - plain
    return {"seconds": seconds, "plain": plain, "bytes": made.bytes, "peak": watched.peak}


def torch(store: Path, npy: Path, epochs: int) -> dict[str, Any]:
    """Measure shuffled epochs of as_torch and of a memory-mapped .npy file, in turn for each batch."""
    dataset = FeatureStore.open(store).as_torch("train")
    mapped = np.load(npy, mmap_mode="r")
    for start in range(0, len(mapped), BATCH):
        # Read both files into the page cache.
        dataset[np.arange(start, min(start + BATCH, len(mapped)))]
        mapped[start : start + BATCH].sum(dtype=np.float32)
    batches = dataset.loader(BATCH, shuffle=True).sampler
    rates = []
    for _ in range(epochs):
        seconds = {"torch": 0.0, "map": 0.0}
        for number, batch in enumerate(batches):
            for name in ("torch", "map") if number % 2 else ("map", "torch"):
                started = time.perf_counter()
                if name == "torch":
                    vectors, _ = dataset[batch]
                else:
                    gathered = mapped[batch]
                seconds[name] += time.perf_counter() - started
            assert vectors.numpy().tobytes() == gathered.tobytes()
        rates.append({name: len(mapped) / taken for name, taken in seconds.items()})
    return {"rows a second": rates, "ratio": [rate["torch"] / rate["map"] for rate in rates]}


def plain_write(path: Path, count: int, block: memoryview) -> float:
    """Write ``count`` bytes, copies of ``block``, to a new file and sync it; return the seconds."""
    started = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for at in range(0, count, len(block)):
            file.write(block[: min(len(block), count - at)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def killed(store: Path, place: Path) -> dict[str, Any]:
    """Kill an export at KILLS points, resume each, and compare the files with those of an export without a kill.

    The points are evenly spaced in the number of bytes written, including unfinished parts.
    """
    whole = fresh("parquet", store, place / "whole")
    differing, stopped = [], 0
    for point in range(KILLS):
        out = place / f"killed-{point}"
        command = [sys.executable, "-m", __spec__.name, "--child", _task("parquet", store, out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and _bytes(out) < whole["bytes"] * (point + 0.5) / KILLS:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        stopped += process.wait() == -signal.SIGKILL
        fresh("parquet", store, out)
        if _files(out) != _files(place / "whole"):
            differing.append(point)
        shutil.rmtree(out)
    shutil.rmtree(place / "whole")
    return {"killed": stopped, "differing": differing}


def _bytes(folder: Path) -> int:
    """Return the total size of the files in ``folder``, 0 if the folder does not exist yet.

    Another process may rename and remove files meanwhile.
    """
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for path in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(folder / path).st_size
    return total


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _task(name: str, *arguments: Any) -> str:
    return json.dumps([name, *(str(one) if isinstance(one, Path) else one for one in arguments)])


def fresh(name: str, *arguments: Any) -> dict[str, Any]:
    """Call the function ``name`` of this module in a fresh process and return its result."""
    command = [sys.executable, "-m", __spec__.name, "--child", _task(name, *arguments)]
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(shown.splitlines()[-1])
    return found


def measure(place: Path, rows: int, dimension: int) -> dict[str, Any]:
    """Measure to_arrow, as_torch and the export to Parquet.

    Return the results, and under "missed" the names of the requirements that are not met.
    """
    large, small, tiny = place / "large", place / "small", place / "tiny"
    _tell(f"writing {rows:,}, {rows // 10:,} and {rows // 50:,} rows of {dimension:,} values")
    write(large, rows, dimension, UNIT_ROWS)
    write(small, rows // 10, dimension, UNIT_ROWS)
    write(tiny, rows // 50, dimension, max(1, rows // 50 // 12))
    found: dict[str, Any] = {}
    _tell("to_arrow")
    found["to_arrow"] = fresh("arrow", large)
    _tell("Parquet beside plain writes")
    made = fresh("parquet", large, place / "out", place / "plain")
    shutil.rmtree(place / "out")
    few = fresh("parquet", small, place / "out")["peak"]
    shutil.rmtree(place / "out")
    found["parquet"] = {**made, "ratio": made["plain"] / made["seconds"], "small": few}
    _tell("kills")
    found["kills"] = killed(tiny, place)
    _tell("as_torch beside a memory map")
    with FeatureStore.open(large) as store:
        export_store(store, place / "npy", "npy")
    found["as_torch"] = fresh("torch", large, place / "npy/vectors.npy", TURNS)
    ratio = sorted(found["as_torch"]["ratio"])[TURNS // 2]
    bounds = {
        "to_arrow adds less than 64 MiB": found["to_arrow"]["bytes"] < MEMORY,
        "Parquet at half of a plain write": found["parquet"]["ratio"] >= SPEED,
        "memory of the export is flat": made["peak"] - few < MEMORY,
        "all exports were killed and ended equal": (found["kills"]["killed"], found["kills"]["differing"])
        == (KILLS, []),
        "as_torch at 0.8 of the memory map": ratio >= RATE,
    }
    return {**found, "missed": [name for name, holds in bounds.items() if not holds]}


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@click.command()
@click.option(
    "--dir", "place", type=click.Path(exists=True, file_okay=False, path_type=Path), help="On the disk to measure."
)
@click.option("--rows", default=1_000_000, show_default=True)
@click.option("--dimension", default=2048, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--child", hidden=True)
def main(place: Path | None, rows: int, dimension: int, as_json: bool, child: str | None) -> None:
    """Measure to_arrow, as_torch and the export to Parquet, and print the results; exit with 1 if a requirement is
    missed."""
    if child is not None:
        name, *arguments = json.loads(child)
        paths = [Path(one) if isinstance(one, str) else one for one in arguments]
        print(json.dumps({"arrow": arrow, "parquet": parquet, "torch": torch}[name](*paths)))
        return
    with tempfile.TemporaryDirectory(dir=place) as folder:
        found = measure(Path(folder), rows, dimension)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        made, export = found["to_arrow"], found["parquet"]
        print(
            f"to_arrow: {made['seconds']:.2f} s, {made['bytes'] / 2**20:+.1f} MiB at the peak, {made['kept'] / 2**20:+.1f} MiB kept"
        )
        print(
            f"Parquet: {export['bytes'] / export['seconds'] / 1e6:,.0f} MB/s, {export['ratio']:.2f} of a plain write; anonymous memory {export['peak'] / 2**20:.0f} MiB at the peak, "
            f"{export['small'] / 2**20:.0f} MiB with a tenth of the rows"
        )
        print(
            f"kills: {found['kills']['killed']} of {KILLS} exports killed, {len(found['kills']['differing'])} ended differently"
        )
        rates = ", ".join(f"{one['torch']:,.0f} ({one['map']:,.0f})" for one in found["as_torch"]["rows a second"])
        print(
            f"as_torch, rows a second (memory map): {rates}; ratios {', '.join(f'{one:.2f}' for one in found['as_torch']['ratio'])}"
        )
        for name in found["missed"]:
            print(f"MISSED: {name}")
    sys.exit(1 if found["missed"] else 0)


if __name__ == "__main__":
    main()
