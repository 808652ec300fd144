"""Options that several verbs share: how the network runs."""

from __future__ import annotations

from typing import Final

import click

from featstore import defaults

PRECISIONS: Final = click.Choice(["auto", "fp32", "bf16", "fp16"])

engine_option = click.option(
    "--engine", default=defaults.ENGINE, show_default=True, help="Engine that runs the network."
)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
batch_option = click.option(
    "--batch", type=click.IntRange(1), default=defaults.BATCH, show_default=True, help="Pictures per forward pass."
)
