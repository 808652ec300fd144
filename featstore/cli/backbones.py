"""featstore backbones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.cli.output import columns, json_option, show

if TYPE_CHECKING:
    pass


@click.command()
@json_option
def backbones(as_json: bool) -> None:
    """List the backbones: dimension, input size, parameters, and whether weights are available here.

    \b
    Examples:
      featstore backbones
      featstore backbones --json
    """
    from dataclasses import asdict

    from featstore.backbones import list_backbones

    found = list_backbones()
    rows = [(b.name, b.dimension, b.input_size, b.parameters, b.weights, b.at_hand) for b in found]
    text = columns(rows, ("backbone", "dimension", "input", "parameters", "weights", "at hand"))
    show([asdict(b) for b in found], text, as_json)
