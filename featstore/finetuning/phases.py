"""The layers of a backbone that are trained in each epoch. Layers can be frozen up to a given layer, and unfrozen
gradually.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from featstore.backbones import Backbone
from featstore.errors import UsageError
from featstore.finetuning.network import TunedNetwork, parameter_groups, set_trainable
from featstore.finetuning.partition import Partition, frozen_before, frozen_names
from featstore.finetuning.plan import Plan
from featstore.text import printable


def schedule(
    backbone: Backbone, freeze_to: str, unfreeze: Sequence[tuple[str, int]]
) -> list[tuple[int, str, str, frozenset[str]]]:
    """Return (first epoch, layer, text, names of the frozen parameters and buffers) of each phase, sorted by epoch.

    ``freeze_to``, ``unfreeze``: as in Plan. Raises UsageError for an unknown layer, and for a layer that is already
    trained when it is to be unfrozen.
    """
    frozen = frozen_names(backbone, freeze_to or (backbone.layer if unfreeze else ""))
    phases = [(1, freeze_to, f"up to {freeze_to}", frozen)]
    for layer, epoch in sorted(unfreeze, key=lambda pair: pair[1]):
        frozen = frozen_before(backbone, layer)
        if not frozen < phases[-1][-1]:
            raise UsageError(
                f"unfreeze: {printable(layer)} is trained already before epoch {epoch}; name layers from the last to "
                "the first, with rising epochs, or another layer for freeze_to"
            )
        phases.append((epoch, layer, f"before {layer}", frozen))
    return phases


class LayerPhases:
    """The phases of a training plan: layers up to ``freeze_to`` are frozen at the start, then layers are gradually
    unfrozen (Howard and Ruder 2018, ULMFiT).

    With ``plan.unfreeze`` but without ``plan.freeze_to`` the head is trained alone at the start. Raises UsageError for
    an unknown layer, a layer in the frozen trunk of ``partition``, or a layer that is already trained when it is to be
    unfrozen.
    """

    def __init__(self, backbone: Backbone, network: TunedNetwork, partition: Partition, plan: Plan) -> None:
        self._network, self._partition, self._plan = network, partition, plan
        states = dict([*backbone.module.named_parameters(), *backbone.module.named_buffers()])
        trunk = frozen_names(backbone, partition.layer)
        self._phases: list[tuple[int, str, frozenset[str]]] = []
        for epoch, layer, text, frozen in schedule(backbone, plan.freeze_to, plan.unfreeze):
            if not trunk <= frozen:
                raise UsageError(
                    f"{printable(layer) or 'the whole network'} cannot be trained: the layers up to {partition.layer} are "
                    "frozen in this run"
                )
            text = "all but the head" if frozen >= states.keys() else text if frozen else "nothing"
            self._phases.append((epoch, printable(text), frozen))

    def frozen(self, epoch: int) -> str:
        """Return a text that says which layers are frozen in ``epoch``, such as "up to layer3" or "all but the head"."""
        return self._phase(epoch)[0]

    def start(self, epoch: int) -> list[dict[str, Any]]:
        """Freeze and unfreeze the layers for ``epoch``; return the parameter groups, with learning rates by depth."""
        set_trainable(self._network, self._partition, self._phase(epoch)[1])
        plan = self._plan
        if plan.keep_statistics:
            self._network.freeze_also(each for each in self._network.tail.modules() if isinstance(each, _BatchNorm))
        return parameter_groups(self._network, self._partition, plan.learning_rate, plan.layer_decay, plan.weight_decay)

    def _phase(self, epoch: int) -> tuple[str, frozenset[str]]:
        return next((text, frozen) for first, text, frozen in reversed(self._phases) if first <= epoch)
