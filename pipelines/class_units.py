"""Units of classes: which units of the network a linear head uses for each class, and the pictures that activate them.

python pipelines/class_units.py STORE HEAD
"""

from __future__ import annotations

from pathlib import Path

import click

import featstore
from featstore.cli import run
from featstore.pages.units import write_units_page


@click.command()
@click.argument("store", type=click.Path(exists=True))
@click.argument("head", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=5, show_default=True, help="Units of each class.")
@click.option("--out", default="class-units", show_default=True, type=click.Path(path_type=Path), help="A folder.")
def main(store: str, head: Path, count: int, out: Path) -> None:
    """Write a page for each class of HEAD with the units that speak most for the class, from the features in STORE."""
    for number, name in enumerate(featstore.load_head(head).classes):
        report = featstore.units(store, head=head, class_name=name, count=count, least=True)
        page = out / f"{number}.html"
        write_units_page(report, page)
        units = ", ".join(f"{one.unit} ({one.contribution:+.2f})" for one in report.units)
        click.echo(f"{name}: {units}; page: {page}")


if __name__ == "__main__":
    run(main)
