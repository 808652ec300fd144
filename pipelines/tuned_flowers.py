"""Five kinds of flowers in two phases: first the head alone, then the last block with a small learning rate.

    python pipelines/tuned_flowers.py flowers --backbone efficientnet_lite0 --block _conv_head

PICTURES has a folder for each kind; a stratified part of each is held out. Courses usually recommend two phases
(https://www.tensorflow.org/tutorials/images/transfer_learning): with a large learning rate, or with a head that is
still random, the first steps would destroy what the network has learnt.
"""

from __future__ import annotations

import click

import featstore
from featstore.cli import run
from featstore.pages.finetune import write_finetune_page


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--model", default="flowers.model", show_default=True)
@click.option("--backbone", default="resnet50", show_default=True)
@click.option("--weights", help="A published name, a checkpoint, or random:SEED.")
@click.option("--size", type=int, help="Side of the square that the network sees, in pixels.")
@click.option("--block", default="layer4", show_default=True, help="See featstore backbones NAME.")
@click.option("--head-epochs", default=3, show_default=True, help="Epochs of the head alone.")
@click.option("--epochs", default=7, show_default=True, help="Epochs of the block and the head.")
@click.option("--lr", default=1e-5, show_default=True)
@click.option("--page", default="tuned-flowers.html", show_default=True)
def main(
    pictures: str,
    model: str,
    backbone: str,
    weights: str | None,
    size: int | None,
    block: str,
    head_epochs: int,
    epochs: int,
    lr: float,
    page: str,
) -> None:
    """Train and evaluate a classifier of five kinds of flowers, with a network tuned in two phases."""
    report = featstore.finetune(
        pictures,
        model,
        backbone=backbone,
        weights=weights,
        size=size,
        unfreeze=((block, head_epochs + 1),),
        epochs=head_epochs + epochs,
        lr=lr,
    )
    write_finetune_page(report, page)
    assert report.tuned is not None
    for row in report.history:
        click.echo(f"epoch {row['epoch']}: {row['frozen']} frozen, held out {row['held_out_accuracy']:.1%}")
    click.echo(report.tuned.comparison.text())
    click.echo(f"model: {report.path}; page: {page}")


if __name__ == "__main__":
    run(main)
