"""Similar images: an index of a folder, and a page with the nearest pictures of each query.

python pipelines/similar_images.py PICTURES QUERY.jpg ... --backbone efficientnet_lite0
"""

from __future__ import annotations

import click

import featstore
from featstore.cli import run
from featstore.pages.search import write_search_page

SHOWN = 3


@click.command()
@click.argument("pictures", type=click.Path(exists=True))
@click.argument("queries", nargs=-1, required=True, type=click.Path())
@click.option("--store", default="similar.store", show_default=True, help="Made where it is not there yet.")
@click.option("--backbone", default="resnet50", show_default=True)
@click.option("--weights", help="A published name, a checkpoint, or random:SEED.")
@click.option("--k", default=10, show_default=True, help="Neighbours a query.")
@click.option("--page", default="similar.html", show_default=True)
def main(
    pictures: str, queries: tuple[str, ...], store: str, backbone: str, weights: str | None, k: int, page: str
) -> None:
    """Find the pictures among PICTURES that are most similar to QUERIES."""
    featstore.extract(pictures, store, backbone=backbone, weights=weights)
    indexed = featstore.index(store)
    found = featstore.search(indexed.path, list(queries), k=k)
    write_search_page(found, page)

    for query in found.queries:
        nearest = ", ".join(f"{one.key} ({one.score:.3f})" for one in query.neighbours[:SHOWN])
        click.echo(f"{query.name}: {nearest or query.message}")
    click.echo(f"page: {page}")


if __name__ == "__main__":
    run(main)
