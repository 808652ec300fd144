"""Ants and bees: compare four heads on the same features.

    python pipelines/hymenoptera.py hymenoptera_data --backbone efficientnet_lite0

PICTURES has train/ and val/, each with a folder for ants and one for bees, as the PyTorch tutorial on transfer
learning has them (https://pytorch.org/tutorials/beginner/transfer_learning_tutorial.html).
"""

from __future__ import annotations

import click

import featstore
from featstore.cli import run
from featstore.pages.train import write_training_page
from featstore.stages.train import TrainReport

HEADS = ("logreg", "linear-svm", "rbf-svm", "knn")


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--store", default="hymenoptera.store", show_default=True, help="Made where it is not there yet.")
@click.option("--backbone", default="resnet50", show_default=True)
@click.option("--weights", help="A published name, a checkpoint, or random:SEED.")
@click.option("--page", default="hymenoptera.html", show_default=True)
def main(pictures: str, store: str, backbone: str, weights: str | None, page: str) -> None:
    """Compare classifiers of ants and bees."""
    featstore.extract(pictures, store, backbone=backbone, weights=weights)
    trained = [featstore.train(store, head=head) for head in HEADS]

    def validated(one: TrainReport) -> float:
        return max(one.head.meta["cross_validation"]["mean_accuracy"])

    for one in trained:
        held_out = one.report.accuracy
        interval = f"[{held_out.low:.1%}, {held_out.high:.1%}]"
        click.echo(
            f"{one.head.kind:<11} cross-validated {validated(one):.1%}  held out {held_out.value:.1%} {interval}"
        )
    # Choose the best head by cross-validation on the training pictures. If the held-out pictures chose the head, the
    # reported accuracy on them would be too high.
    best = max(trained, key=validated)
    write_training_page(best, page)
    click.echo(f"best in cross-validation: {best.head.kind}, {best.path}; page: {page}")


if __name__ == "__main__":
    run(main)
