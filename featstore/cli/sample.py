"""featstore sample."""

from __future__ import annotations

import click

from featstore.cli.output import json_option, show


@click.command()
@click.argument("name", type=click.Choice(["digits"]))
@click.argument("folder", type=click.Path())
@json_option
def sample(name: str, folder: str, as_json: bool) -> None:
    """Write the sample NAME as picture files into FOLDER: real data to try things on, without a network.

    \b
    Examples:
      featstore sample digits digits/
      featstore extract digits/ digits.store --backbone efficientnet_lite0
    """
    from featstore.stages.sample import write_sample

    count = write_sample(name, folder)
    show({"sample": name, "folder": folder, "images": count}, f"{folder}: {count:,} pictures", as_json)
