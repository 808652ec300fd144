"""Fine-tune EfficientNet-Lite0 with several seeds, and compare it with the frozen head on the same held-out pictures.

    python -m tests.slow.finetune_quality FOLDER... [--seeds 5] [--count 0] [--epochs 10] [--backbone efficientnet_lite0]

FOLDER: pictures as split/class/file or class/file, such as hymenoptera. ``--count`` takes only that many pictures per
split and class (0: all). Prints a line per folder and seed: accuracy of the frozen head and of the tuned network with the
paired interval, and the verdict. The exit code is 1 if the accuracy of epoch 0 is not exactly the frozen head's, or if a
paired interval lies below 0.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from featstore.processes.malloc import keep_memory
from featstore.stages.extract import extract
from featstore.stages.finetune import finetune


def linked(folder: Path, place: Path, count: int) -> Path:
    """Return ``folder``, or a folder of links to its first ``count`` pictures of each sub-folder."""
    if not count:
        return folder
    for path, _, files in os.walk(folder):
        for name in sorted(files)[:count]:
            link = place / Path(path).relative_to(folder) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(path, name).resolve())
    return place


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=5, show_default=True)
@click.option("--count", default=0, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--lr", default=None, type=float)
@click.option("--scratch", is_flag=True, help="Also train from scratch with each seed.")
def main(
    folders: tuple[Path, ...], seeds: int, count: int, epochs: int, backbone: str, lr: float | None, scratch: bool
) -> None:
    """Run the comparison and print its table."""
    keep_memory()
    failed = False
    options: dict[str, Any] = {"epochs": epochs, **({} if lr is None else {"lr": lr})}
    print(f"{'pictures':<16}{'seed':>5}{'frozen':>9}{'tuned':>9}  paired difference in points   verdict")
    for folder in folders:
        place = Path(tempfile.mkdtemp(prefix="featstore-finetune-quality-"))
        extract(linked(folder.resolve(), place / "pictures", count), place / "s", backbone=backbone)
        gains = []
        for seed in range(seeds):
            for kind in ("", *(["scratch"] * scratch)):
                more = {"from_scratch": True} if kind else {}
                report = finetune(place / "s", place / f"m{seed}{kind}", seed=seed, **options, **more)
                assert report.tuned is not None
                one = report.tuned.comparison.differences[0]
                print(
                    f"{folder.name:<16}{seed:>5}{one.a:>9.4f}{one.b:>9.4f}  {100 * one.difference:+.2f} "
                    f"[{100 * one.low:+.2f}, {100 * one.high:+.2f}]   {report.tuned.comparison.verdict} {kind}",
                    flush=True,
                )
                if not kind:
                    gains.append(100 * one.difference)
                    exact = report.history[0]["held_out_accuracy"] == report.tuned.frozen.accuracy.value
                    failed |= not exact or one.high < 0
                    print("" if exact else "epoch 0 is NOT the accuracy of the frozen head\n", end="")
        print(f"{folder.name:<16} mean gain {np.mean(gains):+.2f} points over {seeds} seeds")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
