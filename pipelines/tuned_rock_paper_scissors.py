"""Rock, paper, scissors with Inception v3: pictures of 299 x 299 pixels, and training with the auxiliary classifier.

    featstore sample rock-paper-scissors hands
    python pipelines/tuned_rock_paper_scissors.py hands

PICTURES has train/ and test/, each with a folder for each of the three signs, as Laurence Moroney published them. The
auxiliary classifier takes the output of the layer Mixed_6e and is trained only if this layer is trained. So the network
is frozen up to Mixed_6d. The loss of the auxiliary classifier is added during training; the saved model does not
contain this classifier.
"""

from __future__ import annotations

import click

import featstore
from featstore.cli import run
from featstore.pages.finetune import write_finetune_page

CUT = "Mixed_6d"


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.option("--model", default="rock-paper-scissors.model", show_default=True)
@click.option("--weights", help="A published name, a checkpoint, or random:SEED.")
@click.option("--epochs", default=5, show_default=True)
@click.option("--page", default="tuned-rock-paper-scissors.html", show_default=True)
def main(pictures: str, model: str, weights: str | None, epochs: int, page: str) -> None:
    """Train and evaluate a fine-tuned Inception v3 that classifies rock, paper and scissors."""
    report = featstore.finetune(
        pictures, model, backbone="inception_v3", weights=weights, size=299, freeze_to=CUT, epochs=epochs
    )
    write_finetune_page(report, page)
    assert report.tuned is not None
    click.echo(report.tuned.network.text())
    click.echo(report.tuned.comparison.text())
    for note in report.notes:
        click.echo(f"note: {note}")
    click.echo(f"model: {report.path}; page: {page}")


if __name__ == "__main__":
    run(main)
