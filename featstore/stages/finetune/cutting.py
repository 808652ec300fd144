"""Decide which layers of a backbone stay frozen during the whole run, and from which epoch on the other layers are
trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from featstore import defaults
from featstore.backbones import Backbone, exists, load_recorded, own_function
from featstore.errors import UsageError
from featstore.finetuning.partition import Partition, cut_at_or_before, cut_before, frozen_names, last_blocks, split_at
from featstore.finetuning.phases import schedule
from featstore.stages.finetune.options import FinetuneOptions


@dataclass(frozen=True)
class Cut:
    """A backbone divided for fine-tuning.

    ``partition``: the backbone divided after the last layer that is frozen during the whole run. ``freeze_to``: all
    layers up to this one are frozen at the start. It is "" if no layer is frozen, or if the head is trained alone until
    the first layer is ``unfrozen``.
    ``unfrozen``: (layer, epoch) pairs by epoch. ``by_default``: whether the user did not choose the layers.
    """

    partition: Partition
    freeze_to: str = ""
    unfrozen: tuple[tuple[str, int], ...] = ()
    by_default: bool = False


def cut_of(backbone: Backbone, options: FinetuneOptions) -> Cut:
    """Return how to divide ``backbone`` according to ``options``.

    Raises UsageError for an unknown layer, and for a layer that leaves nothing to train.
    """
    if options.all_layers or options.from_scratch:
        return Cut(split_at(backbone, ""))
    if options.unfreeze:
        ordered = tuple(sorted(options.unfreeze, key=lambda pair: pair[1]))
        return Cut(split_at(backbone, cut_before(backbone, ordered[-1][0])), options.freeze_to or "", ordered)
    if options.freeze_to is not None:
        _require_something_to_train(backbone, options.freeze_to)
        return Cut(split_at(backbone, cut_at_or_before(backbone, options.freeze_to)), options.freeze_to)
    partition = split_at(backbone, default_layer(backbone))
    return Cut(partition, partition.layer, by_default=True)


def default_layer(backbone: Backbone) -> str:
    """Return the layer before the last block with parameters; "" if the network has one block or cannot be divided."""
    blocks = last_blocks(backbone)
    return cut_before(backbone, blocks[0]) if blocks else ""


def _require_something_to_train(backbone: Backbone, layer: str) -> None:
    """Raise UsageError if ``layer`` of ``backbone`` is unknown, or if no layer after it has parameters."""
    frozen = frozen_names(backbone, layer)
    if any(name not in frozen for name, _ in backbone.module.named_parameters()):
        return
    near = default_layer(backbone)
    raise UsageError(
        f"freeze_to: after {layer} of {backbone.name} no layer with parameters is left to train, and the head alone is what "
        f"featstore train does; name an earlier layer{f', such as {near}' if near else ''}"
    )


def require_layers(backbone: str | None, options: FinetuneOptions) -> None:
    """Raise UsageError if the built-in ``backbone`` cannot be divided as ``options`` say. No weights are loaded.

    The network may lack a layer (the message lists similar names), nothing may be left to train, or a layer may be
    trained already when it is to be unfrozen.
    """
    name = backbone or defaults.BACKBONE
    if own_function(name) is None and exists(name):
        loaded = load_recorded(name, "random:0")
        if options.unfreeze:
            schedule(loaded, options.freeze_to or "", options.unfreeze)
        elif options.freeze_to:
            _require_something_to_train(loaded, options.freeze_to)
