"""Ants and bees, fine-tuned: augmented pictures, a balanced sampler, the last block of the network.

    python pipelines/tuned_hymenoptera.py hymenoptera_data --backbone efficientnet_lite0

PICTURES has train/ and val/, each with a folder for ants and one for bees, as the PyTorch tutorial on transfer learning
has them (https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html). The tutorial trains every layer of
ResNet18, or the classifier alone; here the classifier is trained to its optimum first, and then the last block with it.
"""

from __future__ import annotations

import click

import featstore
from featstore.cli import run
from featstore.pages.finetune import write_finetune_page


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--model", default="hymenoptera.model", show_default=True)
@click.option("--backbone", default="resnet50", show_default=True)
@click.option("--weights", help="A published name, a checkpoint, or random:SEED.")
@click.option("--size", type=int, help="Side of the square that the network sees, in pixels.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--page", default="tuned-hymenoptera.html", show_default=True)
def main(
    pictures: str, model: str, backbone: str, weights: str | None, size: int | None, epochs: int, page: str
) -> None:
    """Train and evaluate a fine-tuned classifier of ants and bees."""
    report = featstore.finetune(
        pictures,
        model,
        backbone=backbone,
        weights=weights,
        size=size,
        epochs=epochs,
        # Use four augmented views of each picture (large crops, mirror images, colours), which the epochs take in turn.
        augment="standard",
        # The sampler draws ants and bees equally often in every epoch.
        balance="sampler",
    )
    write_finetune_page(report, page)
    assert report.tuned is not None
    click.echo(report.tuned.network.text())
    click.echo(report.tuned.comparison.text())
    click.echo(f"model: {report.path}; page: {page}")


if __name__ == "__main__":
    run(main)
