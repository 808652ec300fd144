"""Dogs against cats: features once, logistic regression with C from a grid by 3-fold cross-validation, a report.

    python pipelines/dogs_vs_cats.py PICTURES

PICTURES has a folder for each class, or train/ and test/ with a folder for each class in them. The protocol is
that of Adrian Rosebrock, Deep Learning for Computer Vision with Python, Practitioner Bundle, chapter 5: ResNet50
features, C in {0.1, 1, 10, 100, 1000, 10000}, 3 folds; he reports 98.69 % on a quarter held out of Kaggle's 25,000.
This script standardises features, so the same C means less regularisation than in the book. If no backbone is named and
ResNet50's weights are not on this machine, EfficientNet-Lite0 is used, whose weights are installed with featstore.
"""

from __future__ import annotations

import click

import featstore
from featstore.backbones import list_backbones
from featstore.cli import run
from featstore.pages.train import write_training_page

CS = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
ROSEBROCK = 0.9869


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--store", default="dogs-vs-cats.store", show_default=True, help="Made where it is not there yet.")
@click.option("--backbone", help="Default: resnet50 where its weights are at hand, else efficientnet_lite0.")
@click.option("--weights", help="A published name, a checkpoint, or random:SEED.")
@click.option("--page", default="dogs-vs-cats.html", show_default=True)
def main(pictures: str, store: str, backbone: str | None, weights: str | None, page: str) -> None:
    """Train and evaluate a classifier of dogs and cats."""
    if backbone is None:
        at_hand = {one.name for one in list_backbones() if one.at_hand}
        backbone = "resnet50" if weights or "resnet50" in at_hand else "efficientnet_lite0"
    extracted = featstore.extract(pictures, store, backbone=backbone, weights=weights)
    trained = featstore.train(store, head="logreg", held_out=0.25, folds=3, Cs=CS)
    write_training_page(trained, page)

    accuracy = trained.report.accuracy
    names = featstore.FeatureStore.open(store).weights_name
    click.echo(f"features: {backbone}, weights {names}")
    click.echo(f"pictures: {extracted.vectors:,} vectors, {extracted.failures:,} could not be read")
    click.echo(
        f"C: {trained.chosen['C']:g}, chosen by 3-fold cross-validation of {len(trained.split.train):,} pictures"
    )
    click.echo(
        f"accuracy: {accuracy.value:.2%} [{accuracy.low:.2%}, {accuracy.high:.2%}] on {trained.report.rows:,} held-out pictures"
    )
    if not names.startswith("random:"):
        click.echo(f"Rosebrock, with ResNet50 and 25,000 pictures: {ROSEBROCK:.2%}")
    click.echo(f"page: {page}")


if __name__ == "__main__":
    run(main)
