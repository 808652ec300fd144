"""Kill ``featstore finetune`` with SIGKILL at random points, resume it, and compare with an uninterrupted run.

    python -m tests.slow.finetune_kills [--count 10] [--seed 1] [--interrupt]

Fine-tunes a small network with random weights on coloured pictures: once without interruption, then ``--count`` times
killed and resumed until it is done. Every second run is killed at a random time between its start and its end, the others
at a random time after a random epoch. Weights, head, metrics.csv (without the
times) and the scalars of the TensorBoard files have to be equal, the weights bit for bit. ``--interrupt`` sends SIGINT
instead of SIGKILL. The exit code is 1 if a run differs.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from tests.stages.finetuning import state_of, write_store

OPTIONS = ("--epochs", "20", "--batch", "8", "--views", "2", "--workers", "1", "--cache", "1G", "--dtype", "float32")


def start(store: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """Start a run of ``featstore finetune``."""
    words = [sys.executable, "-m", "featstore", "finetune", str(store), "--out", str(out), *OPTIONS, *more]
    words += ["--tensorboard", f"{out}.log"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Return (name, epoch, value) of all scalars in the TensorBoard files of ``folder``, read by TensorBoard's own
    reader.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(tag, one.step, one.value) for tag in events.Tags()["scalars"] for one in events.Scalars(tag)]


def result(out: Path) -> dict[str, Any]:
    """Return everything that must be equal in an interrupted and an uninterrupted run."""
    try:
        logged: Any = scalars(Path(f"{out}.log"))
    except ImportError:
        logged = "TensorBoard is not installed"
    return {**state_of(out), "log": logged}


def finished(metrics: Path) -> int:
    """Return the number of the last finished epoch in ``metrics``, -1 before the first."""
    try:
        return len(metrics.read_text().splitlines()) - 2
    except FileNotFoundError:
        return -1


@click.command()
@click.option("--count", default=10, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--interrupt", is_flag=True)
def main(count: int, seed: int, interrupt: bool) -> None:
    """Kill and resume the runs, and print a line for each."""
    draw, number = random.Random(seed), signal.SIGINT if interrupt else signal.SIGKILL
    place = Path(tempfile.mkdtemp(prefix="featstore-finetune-kills-"))
    store = write_store(place)
    began = time.monotonic()
    whole = start(store, place / "whole")
    said = whole.communicate()[1]
    if whole.returncode:
        sys.exit(said)
    seconds = time.monotonic() - began
    wanted, different = result(place / "whole"), 0
    print(f"uninterrupted: {seconds:.1f} s")
    for attempt in range(count):
        out, tries = place / f"m{attempt}", 0
        metrics = place / f"m{attempt}.run/metrics.csv"
        after, epoch = (draw.uniform(0.05, 1.0) * seconds, -1) if attempt % 2 else (0.0, draw.randrange(20))
        process, began = start(store, out), time.monotonic()
        while process.poll() is None and (time.monotonic() - began < after or finished(metrics) < epoch):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(number)
        said = process.communicate()[1]
        epochs = finished(metrics)
        while process.returncode:
            tries += 1
            resume = ["--resume"] if (place / f"m{attempt}.run/checkpoint.safetensors").exists() else []
            process = start(store, out, *resume)
            said = process.communicate()[1]
            if tries > 3:
                sys.exit(said)
        equal = result(out) == wanted
        different += not equal
        point = f"{after:.1f} s" if attempt % 2 else f"epoch {epoch}"
        kept = f"epoch {epochs} kept" if epochs >= 0 else "no epoch finished"
        print(f"killed after {point}, {kept}, {tries} more: {'equal' if equal else 'DIFFERENT'}", flush=True)
    shutil.rmtree(place)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
