"""Options for running the network, shared by several subcommands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from featstore import defaults

PRECISIONS: Final = click.Choice(["auto", "fp32", "bf16", "fp16"])

engine_option = click.option(
    "--engine", default=defaults.ENGINE, show_default=True, help="Engine that runs the network."
)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
trust_option = click.option(
    "--trust",
    multiple=True,
    metavar="TYPE",
    help="A type that HEAD is made of, if it is a head of a scikit-learn class and you trust who made it; repeat for several.",
)
batch_option = click.option(
    "--batch", type=click.IntRange(1), default=defaults.BATCH, show_default=True, help="Pictures per forward pass."
)
_GEOMETRY: Final = (
    click.option(
        "--size",
        type=int,
        metavar="N",
        help="Side in pixels of the square that the network sees (default: that of the weights).",
    ),
    click.option(
        "--fit",
        type=click.Choice(defaults.FITS),
        help="How a picture becomes a square: crop its centre (default), squash it, or pad it with a margin.",
    ),
    click.option(
        "--layer", help="Take the output of this layer (see featstore backbones NAME; default: the last but one)."
    ),
    click.option(
        "--pool",
        type=click.Choice(defaults.POOLS),
        help="How the layer's output becomes a vector: mean (default) or maximum over places or tokens, class token, class "
        "token and mean, or none: the whole map.",
    ),
)


def geometry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the network's input and output: ``size``, ``fit``, ``layer``, ``pool``."""
    for option in reversed(_GEOMETRY):
        command = option(command)
    return command


own_backbone_option = click.option(
    "--backbone",
    metavar="PACKAGE.MODULE:FUNCTION",
    help="Your own backbone, if the features came from one: its code is imported only where you name it.",
)
