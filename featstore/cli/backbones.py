"""The command ``featstore backbones``: its arguments and its output."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.output import columns, json_option, show
from featstore.text import printable

if TYPE_CHECKING:
    from featstore.stages.backbones import BackboneInfo, Layer


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@json_option
def backbones(name: str | None, as_json: bool) -> None:
    """List the backbones: dimension, input size, parameters, and whether weights are available here.

    If NAME is the full name of a backbone, its description is printed, with the layers that extract --layer takes. The
    shape of a layer's output for one picture is (channels, height, width), (tokens, channels) or (length).

    If NAME is part of a name, or a pattern with * and ?, the matching backbones are listed. Models of timm and
    open_clip are listed only with a NAME such as timm/. If a dimension is shown as -, give
    the full name of this backbone as NAME: the dimension is then computed.

    \b
    Examples:
      featstore backbones
      featstore backbones resnet
      featstore backbones 'timm/vit_*dinov2*'
      featstore backbones resnet50
      featstore backbones my_package.networks:small
      featstore backbones my.model
      featstore backbones --json
    """
    from featstore.backbones import exists, names_model, own_function
    from featstore.stages.backbones import describe_backbone, list_backbones, list_layers

    if name is not None and (own_function(name) is not None or exists(name) or names_model(name)):
        one, layers = describe_backbone(name), list_layers(name)
        told = [{**asdict(each), "shape": list(each.shape)} for each in layers]
        show({**asdict(one), "layers": told}, f"{_described(one)}\n\n{_layers(layers)}", as_json)
        return
    found = list_backbones(name)
    if not found and name is not None:
        # No backbone matches: this call raises an error that lists similar names.
        describe_backbone(name)
    show([asdict(each) for each in found], _table(found, all_of_them=name is None), as_json)


def _layers(layers: list[Layer]) -> str:
    shapes = [(each.name, each.kind, " x ".join(map(str, each.shape)), math.prod(each.shape)) for each in layers]
    return columns(shapes, ("layer", "kind", "output", "numbers"))


def _table(found: list[BackboneInfo], *, all_of_them: bool) -> str:
    rows = [
        tuple(
            "-" if value is None else value
            for value in (b.name, b.dimension, b.input_size, b.parameters, b.weights, b.at_hand)
        )
        for b in found
    ]
    text = columns(rows, ("backbone", "dimension", "input", "parameters", "weights", "at hand"))
    return text + (f"\n{_hint().lstrip('; ')}" if all_of_them and _hint() else "")


def _hint() -> str:
    """Return a line that says how to list the models of timm and open_clip, or how to install timm if it is missing."""
    from featstore.backbones import timm_models

    if timm_models.installed():
        return "; models of timm: featstore backbones timm/, of open_clip: featstore backbones open_clip/"
    return "; models of timm need its package: pip install 'image-featstore[timm]'"


def _described(one: BackboneInfo) -> str:
    facts: dict[str, Any] = {
        "from": {"lite": "the weights' own package", "own": "your own function", "model": "a model folder"}.get(
            one.source, one.source
        ),
        "dimension": f"{one.dimension:,}" if one.dimension is not None else "-",
        "input": f"{one.input_size} x {one.input_size} pixels",
        "parameters": f"{one.parameters:,}" if one.parameters is not None else "-",
        "weights": ", ".join(one.all_weights) + (", the first by default" if len(one.all_weights) > 1 else ""),
        "at hand": f"{'yes' if one.at_hand else 'no'}, {one.why}",
    }
    width = max(map(len, facts))
    return "\n".join([printable(one.name), *(f"  {name:{width}}  {printable(text)}" for name, text in facts.items())])
