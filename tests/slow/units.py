"""Compare ``featstore units`` with brute force, and check its time and memory, on a large store and on a real one.

    python -m tests.slow.units --store-dir DIR [--rows 1000000] [--keep] [--store STORE] [--json]

Writes a store of ``--rows`` synthetic float16 vectors of 2,048 values into DIR (4.2 GB by default), and measures on it:

* the command with one unit, as a user starts it: at most 5 seconds once the store is in the kernel's cache;
* the growth of the resident memory of ``featstore.units``, mapped files included, with one unit, with 16, and with
  those of a class: at most 256 MiB;
* the pictures at both ends, their values and percentiles, and the contributions to a class of a random linear head:
  equal to those of a sort of whole columns in memory.

``--store`` names a store of real pictures. There every unit is compared with brute force, and the command with a page
takes at most 1 second. Each time is the smallest of three. The exit code is 1 if a requirement is missed. The
synthetic store is removed at the end unless --keep is given.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from featstore.heads import TrainedHead, load_head, save_head
from featstore.heads.models import LinearModel
from featstore.stages.units import units
from featstore.store import FeatureStore
from featstore.store.activations import activations, unit_count
from tests.slow.million_rows import HELD_OUT, write

DIMENSION, CLASSES = 2048, 10
MOST_SECONDS, MOST_SECONDS_REAL, MOST_GROWTH = 5.0, 1.0, 256 << 20
COMPARED, N = 16, 12
NAMES = [f"class {code:04d}" for code in range(CLASSES)]
CLASS = NAMES[3]


def status(name: str) -> int:
    """Return a field of the kernel's status of this process in bytes: VmRSS or, for the peak, VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def child(store: str, asked: dict[str, Any]) -> int:
    """Return by how many bytes the resident memory of this process grows while ``featstore.units`` runs."""
    before = status("VmRSS")
    units(store, n=N, least=True, **asked)
    return status("VmHWM") - before


def run(*arguments: str) -> tuple[float, str]:
    """Run a Python module in a new process; return the seconds and its standard output."""
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, result.stdout


def seconds_of(*arguments: str) -> float:
    """Return the time of the command ``featstore units``: the smallest of three runs."""
    return min(run("featstore", "units", *arguments)[0] for _ in range(3))


def wrong_units(path: Path, chosen: list[int]) -> list[int]:
    """Return those of the ``chosen`` units whose pictures, values or percentiles differ from brute force."""
    store, wrong = FeatureStore.open(path), []
    keys = np.array([key.encode("utf-8", "surrogateescape") for key in store.keys], object)
    ranks = np.argsort(np.argsort(keys.astype(bytes), kind="stable"))
    columns = {unit: np.empty(len(store), np.float32) for unit in chosen}
    start = 0
    for block in store.blocks():
        maps = np.asarray(block, np.float32).reshape(len(block), *(store.identity.shape or (store.dimension,)))
        for unit, column in columns.items():
            column[start : start + len(block)] = _brute(maps, unit)
        start += len(block)
    for unit, column in columns.items():
        if column.min() == column.max():
            continue
        one = units(path, unit, n=N, least=True).units[0]
        for found, values in ((one.most, -column), (one.least, column)):
            order = np.lexsort((ranks, values))[:N]
            expected = [
                (
                    keys[row].decode("utf-8", "surrogateescape"),
                    float(column[row]),
                    100 * float((column < column[row]).mean()),
                )
                for row in order.tolist()
            ]
            told = [(each.key, each.value, each.percentile) for each in found]
            same = [each[:2] for each in told] == [each[:2] for each in expected]
            if not same or not np.allclose(
                [each[2] for each in told], [each[2] for each in expected], rtol=0, atol=1e-9
            ):
                wrong.append(unit)
    return wrong


def _brute(vectors: Any, unit: int) -> Any:
    if vectors.ndim == 2:
        return vectors[:, unit]
    return vectors[:, unit].max(axis=(1, 2)) if vectors.ndim == 4 else vectors[..., unit].max(axis=1)


def write_head(path: Path, store: FeatureStore) -> None:
    """Write a linear head with random weights for the features of ``store``."""
    model = LinearModel(np.random.default_rng(1).standard_normal((CLASSES, DIMENSION)), np.zeros(CLASSES))
    save_head(path, TrainedHead("logreg", NAMES, model, store.fingerprint, store.identity.to_dict()))


def gap_of_contributions(path: Path, head: Path) -> float:
    """Return the largest difference between reported contributions and float64 means, relative to the largest one."""
    store, weights = FeatureStore.open(path), load_head(head).model.arrays()["coef"][NAMES.index(CLASS)]
    report = units(path, head=head, class_name=CLASS, count=DIMENSION, n=1)
    rows = np.flatnonzero(store.labels == CLASS)
    every = sum(np.asarray(block, np.float64).sum(axis=0) for block in store.blocks()) / len(store)
    some = sum(np.asarray(block, np.float64).sum(axis=0) for block in store.blocks(rows)) / len(rows)
    expected = weights * (some - every)
    assert [one.unit for one in report.units] == np.argsort(-expected)[: (expected > 0).sum()].tolist()
    gaps = [abs(expected[one.unit] - one.contribution) for one in report.units if one.contribution is not None]
    return float(max(gaps) / np.abs(expected).max())


def on_real_store(store: Path, place: Path) -> dict[str, Any]:
    """Return the time of the command with a page on a real store, and the units that differ from brute force."""
    opened = FeatureStore.open(store)
    every = list(range(unit_count(opened.identity)))
    columns = activations(opened, every)
    varied = int(np.argmax(columns.std(axis=0)))
    page = place / "units.html"
    seconds = seconds_of(os.fspath(store), "--unit", str(varied), "--html", os.fspath(page))
    page.unlink()
    return {
        "rows": len(opened),
        "units": len(every),
        "constant": int((columns.min(axis=0) == columns.max(axis=0)).sum()),
        "seconds": seconds,
        "wrong": wrong_units(store, every),
    }


def verdicts(found: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return for each bound a text with the measured value and the bound, and whether the bound holds."""
    large, real = found["large"], found.get("real")
    told = [
        (
            f"{large['rows']:,} rows: one unit in {large['seconds']:.2f} s; at most {MOST_SECONDS:g}",
            large["seconds"] <= MOST_SECONDS,
        ),
        *(
            (f"memory grows by {growth / 2**20:.0f} MiB with {what}; at most 256", growth <= MOST_GROWTH)
            for what, growth in large["growth"].items()
        ),
        (f"{len(large['wrong'])} of {COMPARED} units differ from brute force", not large["wrong"]),
        (f"contributions are within {large['gap']:.1e}; at most 1e-9", large["gap"] <= 1e-9),
    ]
    if real:
        told += [
            (
                f"{real['rows']:,} pictures: a unit with its page in {real['seconds']:.2f} s; at most {MOST_SECONDS_REAL:g}",
                real["seconds"] <= MOST_SECONDS_REAL,
            ),
            (
                f"{len(real['wrong'])} of {real['units']:,} units differ from brute force ({real['constant']} are constant)",
                not real["wrong"],
            ),
        ]
    return told


@click.command()
@click.option("--store-dir", type=click.Path(path_type=Path), required=True)
@click.option("--rows", default=1_000_000, show_default=True, help="Of the synthetic store.")
@click.option("--store", type=click.Path(path_type=Path, exists=True), help="A store of real pictures.")
@click.option("--keep", is_flag=True, help="Keep the synthetic store, and use the one that is there.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--child", "as_child", hidden=True)
def main(store_dir: Path, rows: int, store: Path | None, keep: bool, as_json: bool, as_child: str | None) -> None:
    """Write the synthetic store, measure, and print the results; exit with 1 if a bound is missed."""
    if as_child:
        print(json.dumps(child(os.fspath(store), json.loads(as_child))))
        return
    store_dir.mkdir(parents=True, exist_ok=True)
    made, place = store_dir / f"units-{rows}.store", store_dir / "units.head"
    chosen = sorted(np.random.default_rng(0).choice(DIMENSION, COMPARED, replace=False).tolist())
    try:
        if not (keep and made.exists()):
            shutil.rmtree(made, ignore_errors=True)
            write(made, rows - min(HELD_OUT, rows // 2), DIMENSION, CLASSES, 0)
        write_head(place, FeatureStore.open(made))
        growth, again = {}, ["tests.slow.units", "--store-dir", os.fspath(store_dir), "--store", os.fspath(made)]
        cases = {"one unit": {"unit": chosen[:1]}, f"{COMPARED} units": {"unit": chosen}}
        for what, asked in {**cases, "a class": {"head": os.fspath(place), "class_name": CLASS}}.items():
            growth[what] = int(run(*again, "--child", json.dumps(asked))[1])
        found: dict[str, Any] = {
            "large": {
                "rows": len(FeatureStore.open(made)),
                "seconds": seconds_of(os.fspath(made), "--unit", str(chosen[0]), "--least"),
                "growth": growth,
                "wrong": wrong_units(made, chosen),
                "gap": gap_of_contributions(made, place),
            }
        }
        if store is not None:
            found["real"] = on_real_store(store, store_dir)
    finally:
        place.unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(made, ignore_errors=True)
    checked = verdicts(found)
    if as_json:
        print(json.dumps({**found, "verdicts": [{"bound": text, "holds": holds} for text, holds in checked]}, indent=2))
    else:
        for text, holds in checked:
            print(("holds   " if holds else "MISSED  ") + text)
    sys.exit(not all(holds for _, holds in checked))


if __name__ == "__main__":
    main()
