"""Dogs against cats with MobileNetV2, frozen up to and including block 12, and a single output with a sigmoid.

    python pipelines/tuned_dogs_vs_cats.py PICTURES

PICTURES has a folder for each class, or train/ and test/ with a folder for each class in them. Courses with Keras cut
MobileNetV2 by the names of its layers; featstore knows these names, so ``block_12_add`` is the output of block 12. For
two classes the network has one output. The sigmoid of this output is the probability of the second class; the loss is
binary cross-entropy.
"""

from __future__ import annotations

import click

import featstore
from featstore.cli import run
from featstore.pages.finetune import write_finetune_page

CUT = "block_12_add"


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--model", default="dogs-vs-cats.model", show_default=True)
@click.option("--weights", help="A published name, a checkpoint, or random:SEED.")
@click.option("--size", type=int, help="Side of the square that the network sees, in pixels.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--page", default="tuned-dogs-vs-cats.html", show_default=True)
def main(pictures: str, model: str, weights: str | None, size: int | None, epochs: int, page: str) -> None:
    """Train and evaluate a fine-tuned MobileNetV2 that classifies dogs and cats."""
    report = featstore.finetune(
        pictures, model, backbone="mobilenet_v2", weights=weights, size=size, freeze_to=CUT, epochs=epochs
    )
    write_finetune_page(report, page)
    assert report.tuned is not None
    head = report.tuned.head
    click.echo(report.tuned.network.text())
    click.echo(f"output: {len(head.model.intercept)} unit, the probability of {head.classes[1]}")
    click.echo(report.tuned.comparison.text())
    click.echo(f"model: {report.path}; page: {page}")


if __name__ == "__main__":
    run(main)
