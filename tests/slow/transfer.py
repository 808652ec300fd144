"""Compare the methods of transfer learning on real pictures with real weights, and check what must hold.

    python -m tests.slow.transfer FOLDER [--seeds 5] [--epochs 10] [--count 0] [--backbone efficientnet_lite0] [--out DIR]

FOLDER: pictures as split/class/file or class/file, such as hymenoptera. ``--count`` takes only that many pictures per
split and class (0: all). ``--out``: keeps the finished runs there, and the page beside it, so that an interrupted
command goes on. Prints the table of ``featstore compare``. The exit code is 1 if a network trained from scratch is not
measurably worse than the frozen one with a linear head, or if a fine-tuned network is measurably worse.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from featstore.cli.compare import _text
from featstore.pages.compare import write_compare_page
from featstore.processes.malloc import keep_memory
from featstore.stages.compare import METHODS, compare
from tests.slow.finetune_quality import linked

TUNED = ("last-block", "gradual", "all")


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=5, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--count", default=0, show_default=True)
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(folder: Path, seeds: int, epochs: int, count: int, backbone: str, methods: str, out: Path | None) -> None:
    """Print the table and the verdict."""
    keep_memory()
    place = Path(tempfile.mkdtemp(prefix="featstore-transfer-"))
    runs = (out or place / "runs").absolute()
    # Links lie beside the runs, so that the same command finds the same pictures.
    pictures = runs.with_name(f"{runs.name}.pictures")
    report = compare(
        transfer=pictures if count and pictures.exists() else linked(folder.resolve(), pictures, count),
        out=runs,
        methods=methods.split(","),
        seeds=seeds,
        epochs=epochs,
        backbone=backbone,
        progress=lambda event: print(event.text, file=sys.stderr, flush=True) if event.text else None,
    )
    page = runs.with_name(f"{runs.name}.html")
    write_compare_page(report, page)
    print(_text(report, page))
    verdicts = {one.name: one.differences["accuracy"].verdict for one in report.results if one.differences}
    missed = [f"{name} is {verdicts[name]}" for name in TUNED if verdicts.get(name) == "worse"]
    if verdicts.get("scratch", "worse") != "worse":
        missed.append(f"scratch: {verdicts['scratch']}")
    held = ["scratch loses"] * ("scratch" in verdicts) + ["no fine-tuned network is measurably below the frozen one"]
    print(f"MISSED: {'; '.join(missed)}" if missed else ", ".join(held))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
