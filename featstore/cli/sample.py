"""The command ``featstore sample``: its arguments and its output."""

from __future__ import annotations

import click

from featstore.cli.output import Bar, json_option, say, show
from featstore.datasets import registry
from featstore.stages.sample import sample_names, write_sample


@click.command()
@click.argument("name", type=click.Choice(sample_names()))
@click.argument("folder", type=click.Path())
@json_option
def sample(name: str, folder: str, as_json: bool) -> None:
    """Write the sample NAME as picture files into FOLDER, to try featstore on real pictures.

    \b
      digits               1,797 handwritten digits, 8 x 8; written without a network
      hymenoptera          ants and bees, split into train and val       download of  47 MB
      dogs-vs-cats         25,000 dogs and cats, some of them damaged    download of 825 MB
      rock-paper-scissors  2,892 rendered hands, split train and test    download of 230 MB
      flowers              3,670 photographs of five kinds of flowers    download of 229 MB

    A download is checked against its published SHA-256; if it is interrupted, the same command continues it.

    \b
    Examples:
      featstore sample digits digits/
      featstore extract digits/ digits.store --backbone efficientnet_lite0
      featstore sample hymenoptera ants-and-bees/
    """
    from featstore.embed.progress import Progress

    bar = Bar("B")

    def progress(done: int, total: int, note: str) -> None:
        bar(Progress(done, total, failed=0, note=note))

    if name in registry() and not as_json:
        found = registry()[name]
        say(f"{name}: {found.title}; licence: {found.licence}; from {found.home}", err=True)
    try:
        count = write_sample(name, folder, progress=None if as_json else progress)
    finally:
        bar.close()
    show({"sample": name, "folder": folder, "images": count}, f"{folder}: {count:,} pictures", as_json)
