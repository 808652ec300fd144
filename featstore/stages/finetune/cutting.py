"""Decide which layers of a backbone stay frozen during the whole run, and which train from which epoch on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import pairwise

from featstore import defaults
from featstore.backbones import Backbone, exists, load_recorded, own_function
from featstore.errors import UsageError
from featstore.finetuning.partition import (
    Partition,
    cut_at_or_before,
    cut_before,
    frozen_before,
    frozen_names,
    split_at,
)
from featstore.stages.finetune.options import FinetuneOptions

Names = frozenset[str]


@dataclass(frozen=True)
class Cut:
    """A backbone divided for fine-tuning.

    ``partition``: divided after the last layer that is frozen during the whole run. ``phases``: (epoch, names of the
    parameters and buffers that are frozen from this epoch on, the same in words); epochs count from 1, ascending, the
    first is 1. ``unfrozen``: (layer, epoch) pairs of gradual unfreezing by epoch. ``by_default``: whether the default
    chose the layers.
    """

    partition: Partition
    phases: tuple[tuple[int, Names, str], ...]
    unfrozen: tuple[tuple[str, int], ...] = ()
    by_default: bool = False


def cut_of(backbone: Backbone, options: FinetuneOptions) -> Cut:
    """Return how ``options`` divide ``backbone``.

    Raises UsageError for an unknown layer, for a layer that leaves nothing to train, and for layers that are unfrozen
    in the wrong order.
    """
    if options.all_layers or options.from_scratch:
        return Cut(split_at(backbone, ""), ((1, frozenset(), "nothing"),))
    if options.unfreeze:
        return _gradual(backbone, options)
    if options.freeze_to is not None:
        frozen = frozen_names(backbone, options.freeze_to)
        _require_something_to_train(backbone, options.freeze_to, frozen)
        partition = split_at(backbone, cut_at_or_before(backbone, options.freeze_to))
        return Cut(partition, ((1, frozen, f"up to {options.freeze_to}"),))
    partition = split_at(backbone, default_layer(backbone))
    frozen = frozen_names(backbone, partition.layer)
    return Cut(partition, ((1, frozen, f"up to {partition.layer}" if frozen else "nothing"),), by_default=True)


def default_layer(backbone: Backbone) -> str:
    """Return the layer before the last block with parameters; "" if the network has one block or cannot be divided."""
    groups = split_at(backbone, "").groups
    if len(groups) < 2:
        return ""
    # The name of a parameter begins with the names of the modules that contain it, the innermost last.
    module = groups[-1][0]
    while "." in module:
        module = module.rpartition(".")[0]
        with contextlib.suppress(UsageError):
            return cut_before(backbone, module)
    return ""


def _gradual(backbone: Backbone, options: FinetuneOptions) -> Cut:
    """Return the division for gradual unfreezing: the head alone, then more and more layers."""
    ordered = sorted(options.unfreeze, key=lambda pair: pair[1])
    frozen = [(epoch, frozen_before(backbone, layer), layer) for layer, epoch in ordered]
    for (_, before, earlier), (_, after, layer) in pairwise(frozen):
        if not after < before:
            raise UsageError(
                f"unfreeze: {layer} is not before {earlier}, which trains already; later epochs unfreeze layers closer to "
                "the picture"
            )
    partition = split_at(backbone, cut_before(backbone, ordered[-1][0]))
    everything = frozen_names(backbone, backbone.layer)
    start = [(1, everything, "all but the head")] if ordered[0][1] > 1 else []
    phases = (*start, *((epoch, names, f"below {layer}") for epoch, names, layer in frozen))
    return Cut(partition, phases, tuple(ordered))


def _require_something_to_train(backbone: Backbone, layer: str, frozen: Names) -> None:
    """Raise UsageError if all parameters of ``backbone`` are ``frozen``: then only the head would train."""
    if any(name not in frozen for name, _ in backbone.module.named_parameters()):
        return
    near = split_at(backbone, "").blocks[-3:]
    raise UsageError(
        f"freeze_to: after {layer} of {backbone.name} no layer with parameters is left to train, and the head alone is what "
        f"featstore train does; name an earlier layer{f', such as {near[0]}' if near else ''}"
    )


def require_layers(backbone: str | None, layers: list[str]) -> None:
    """Raise UsageError, with near names, if the built-in ``backbone`` lacks one of ``layers``; loads no weights."""
    name = backbone or defaults.BACKBONE
    if own_function(name) is None and exists(name):
        loaded = load_recorded(name, "random:0")
        for layer in layers:
            frozen_names(loaded, layer)
