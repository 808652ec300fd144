"""featstore backbones."""

from __future__ import annotations

import math
from dataclasses import asdict

import click

from featstore.cli.output import columns, json_option, show


@click.command()
@click.argument("name", required=False)
@json_option
def backbones(name: str | None, as_json: bool) -> None:
    """List the backbones: dimension, input size, parameters, and whether weights are available here.

    With NAME, list the layers of this backbone that extract --layer takes, with the shape of their output for one
    picture: (channels, height, width) of a map, (tokens, channels), or the length of a vector.

    \b
    Examples:
      featstore backbones
      featstore backbones resnet50
      featstore backbones --json
    """
    from featstore.stages.backbones import list_backbones, list_layers

    if name is not None:
        layers = list_layers(name)
        shapes = [(each.name, each.kind, " x ".join(map(str, each.shape)), math.prod(each.shape)) for each in layers]
        text = columns(shapes, ("layer", "kind", "output", "numbers"))
        show([{**asdict(each), "shape": list(each.shape)} for each in layers], text, as_json)
        return
    found = list_backbones()
    rows = [(b.name, b.dimension, b.input_size, b.parameters, b.weights, b.at_hand) for b in found]
    text = columns(rows, ("backbone", "dimension", "input", "parameters", "weights", "at hand"))
    show([asdict(b) for b in found], text, as_json)
