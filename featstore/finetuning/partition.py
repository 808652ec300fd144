"""Divide a backbone into a trunk, which stays frozen, and a tail, which is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from torch import fx, nn

from featstore.backbones import Backbone
from featstore.backbones.keras_names import table, torchvision_name
from featstore.backbones.layers import Layer, layers_of, no_vector, unknown_layer
from featstore.backbones.tracing import Trace
from featstore.errors import UsageError

AUXILIARY_INPUTS: Final = {"inception_v3": "Mixed_6e"}
"""Map from a backbone to the layer whose output an auxiliary classifier takes as input during training."""


@dataclass(frozen=True, eq=False)
class Partition:
    """A backbone divided after ``layer``; trunk and tail share their parameters with the backbone's module.

    ``trunk``: (n, 3, s, s) normalised float32 -> (n, *shape), in eval mode. ``tail``: (n, *shape) -> (n, d) features.
    A map has the shape (channels, height, width). If ``layer`` is "", the trunk is the identity. ``blocks``: names of
    the tail's layers that can be frozen or unfrozen, in the order of computation. ``groups``: names of the trained
    parameters by depth, the parameters closest to the picture first (one group if torch.fx cannot trace the network). ``branching``: the tail of Inception v3 as
    (n, *shape) -> (features, input of the auxiliary classifier), None if the auxiliary classifier's input is in the
    trunk; ``auxiliary_shape``: shape of this input.
    """

    layer: str
    shape: tuple[int, ...]
    trunk: nn.Module = field(repr=False)
    tail: nn.Module = field(repr=False)
    blocks: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    branching: nn.Module | None = field(default=None, repr=False)
    auxiliary_shape: tuple[int, ...] = ()


def split_at(backbone: Backbone, layer: str) -> Partition:
    """Return ``backbone`` divided after ``layer``.

    ``layer``: a name that ``list_layers`` gives or Keras' name for such a layer; "" for no trunk; the classifier's name
    or ``backbone.layer`` ("input of fc") for no tail but the identity. Raises UsageError if the layer is unknown, if a
    connection bypasses it (as it bypasses the layers inside a residual block), or if torch.fx cannot trace the network.
    """
    if _is_last(backbone, layer):
        return Partition(layer, (backbone.dimension,), backbone.module, nn.Identity())
    side = backbone.preprocessing.crop
    if not layer:
        try:
            chart = _Chart(backbone)
        except UsageError:
            parameters = tuple(name for name, _ in backbone.module.named_parameters())
            return Partition("", (3, side, side), nn.Identity(), backbone.module, groups=(parameters,))
        return chart.partition("", None)
    chart = _Chart(backbone)
    name = chart.find(layer)
    chart.require_clean(name)
    return chart.partition(name, chart.layers[name])


def frozen_names(backbone: Backbone, layer: str) -> frozenset[str]:
    """Return the names of all parameters and buffers that are used up to and including ``layer``.

    ``layer``: as for ``split_at``; a layer that a connection bypasses is accepted too. The names are in the order of
    computation. Raises UsageError for unknown layers and networks that torch.fx cannot trace.
    """
    if not layer:
        return frozenset()
    if _is_last(backbone, layer):
        return frozenset(_states(backbone.module))
    chart = _Chart(backbone)
    end = chart.place(chart.find(layer))
    return frozenset(name for name, (first, _) in chart.trace.states.items() if first <= end)


def frozen_before(backbone: Backbone, layer: str) -> frozenset[str]:
    """Return the names of all parameters and buffers that are used before ``layer`` starts.

    These parameters stay frozen if ``layer`` is the lowest layer to be trained. Raises the errors of ``frozen_names``.
    """
    if _is_last(backbone, layer):
        return frozenset(_states(backbone.module))
    chart = _Chart(backbone)
    start = chart.start(chart.find(layer))
    return frozenset(name for name, (first, _) in chart.trace.states.items() if first < start)


def cut_at_or_before(backbone: Backbone, layer: str) -> str:
    """Return the last layer, at ``layer`` or before it, after which the backbone can be divided; "" if there is none.

    Raises the errors of ``frozen_names``.
    """
    if not layer or _is_last(backbone, layer):
        return layer
    chart = _Chart(backbone)
    name = chart.find(layer)
    return name if chart.is_clean(name) else chart.last_cut(chart.place(name) + 1)


def cut_before(backbone: Backbone, layer: str) -> str:
    """Return the last layer that ends before ``layer`` starts and after which the backbone can be divided; "" if there
    is none.

    Raises the errors of ``frozen_names``.
    """
    if _is_last(backbone, layer):
        return layer
    chart = _Chart(backbone)
    return chart.last_cut(chart.start(chart.find(layer)))


def last_blocks(backbone: Backbone, count: int = 1) -> tuple[str, ...]:
    """Return the names of the last blocks with parameters, at most ``count``, the last one first, for gradual
    unfreezing.

    The first block of the network is never included, so that at least this block stays frozen. The result is () if
    torch.fx cannot trace the network or if it has only one block.
    """
    try:
        chart = _Chart(backbone)
    except UsageError:
        return ()
    found: list[str] = []
    units = _units(backbone.module)
    for group in reversed(chart._groups(-1)[1:]):
        block = next((unit for unit in units if group[0].startswith(unit + ".")), "")
        # If the output of a block is not a vector or map, name the block by a layer inside it; try the innermost first.
        inside = group[0].split(".")[:-1]
        for name in (block, *(".".join(inside[:length]) for length in range(len(inside), 0, -1))):
            if name in chart.layers and chart.last_cut(chart.start(name)):
                found.append(name)
                break
        if len(found) == count:
            break
    return tuple(found)


class _Chart:
    """The layers of a backbone in the order of computation. ``layers``: by name, as ``layers_of`` returns them."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.network = backbone, backbone.module
        try:
            self.trace = Trace(backbone.module)
        except Exception:  # The type of the error that torch.fx raises depends on the network.
            raise UsageError(
                f"layer: torch.fx cannot trace {backbone.name}, so no part of the network can be frozen; leave the layer "
                "out to train the whole network, or take another backbone"
            ) from None
        found = layers_of(backbone.module, backbone.preprocessing.crop, backbone.name)
        self.layers = {name: found[name] for name in self.trace.outputs if name in found}

    def find(self, layer: str) -> str:
        """Return the network's own name for ``layer``. Raises UsageError for an unknown layer."""
        names = [name for name, _ in self.network.named_modules() if name]
        alias = torchvision_name(self.backbone.name, layer)
        for name in (layer, alias, f"module.{alias}"):
            if name in self.layers:
                return name
        if layer in names or alias in names:
            raise UsageError(no_vector(self.backbone.name, layer))
        raise UsageError(unknown_layer(self.backbone.name, layer, [*self.layers, *table(self.backbone.name)]))

    def place(self, name: str) -> int:
        """Return the position of the output of the layer ``name`` in the order of computation."""
        return self.trace.places[self.trace.outputs[name]]

    def start(self, name: str) -> int:
        """Return the position of the first computation inside the layer ``name`` that uses parameters or buffers."""
        inside = [
            first for state, (first, _) in self.trace.states.items() if state == name or state.startswith(name + ".")
        ]
        return min([*inside, self.place(name)])

    def is_clean(self, name: str) -> bool:
        """Return whether the network can be divided after the layer ``name``."""
        return self.trace.outputs[name] in self.trace.clean

    def last_cut(self, before: int) -> str:
        """Return the outermost layer whose output is the last point before ``before`` where the network can be divided;
        "" if there is none.
        """
        fitting = [name for name in self.layers if self.place(name) < before and self.is_clean(name)]
        return fitting[-1] if fitting else ""

    def require_clean(self, name: str) -> None:
        """Raise UsageError if the network cannot be divided after the layer ``name``."""
        if self.is_clean(name):
            return
        at = self.place(name)
        after = next((each for each in self.layers if self.place(each) > at and self.is_clean(each)), "")
        near = [each for each in (self.last_cut(at), after) if each]
        raise UsageError(
            f"layer: {name} of {self.backbone.name} is inside a block with parallel paths, so the network cannot be "
            f"divided after it; take {' or '.join(near)}"
        )

    def partition(self, name: str, layer: Layer | None) -> Partition:
        """Return the network divided after the layer ``name``; if ``name`` is empty, before the first computation."""
        trace, side = self.trace, self.backbone.preprocessing.crop
        start, at = (trace.outputs[name], self.place(name)) if layer else (None, -1)
        turned = layer is not None and layer.channels_last
        auxiliary = self._auxiliary(at)
        return Partition(
            layer=name,
            shape=layer.shape if layer else (3, side, side),
            trunk=trace.until(start, turned) if start else nn.Identity(),
            tail=trace.after(start, turned),
            blocks=self._blocks(at),
            groups=self._groups(at),
            branching=trace.after(start, turned, auxiliary[1]) if auxiliary else None,
            auxiliary_shape=auxiliary[0] if auxiliary else (),
        )

    def _auxiliary(self, at: int) -> tuple[tuple[int, ...], fx.Node] | None:
        """Return shape and node of the auxiliary classifier's input, if it is computed after the position ``at``."""
        name = AUXILIARY_INPUTS.get(self.backbone.name, "")
        if name not in self.layers or self.place(name) <= at:
            return None
        return self.layers[name].shape, self.trace.outputs[name]

    def _blocks(self, at: int) -> tuple[str, ...]:
        """Return the layers that can be frozen: blocks, or lists of blocks, with parameters used after the position
        ``at``.
        """
        later = [name for name, (first, _) in self.trace.states.items() if first > at]
        units = [unit for unit in _units(self.network) if any(name.startswith(unit + ".") for name in later)]
        inside = {name: any(unit == name or unit.startswith(name + ".") for unit in units) for name in self.layers}
        return tuple(name for name in self.layers if inside[name] and self.place(name) > at and self.is_clean(name))

    def _groups(self, at: int) -> tuple[tuple[str, ...], ...]:
        """Return the names of the parameters used after the position ``at``, one group for each block of the network.

        A parameter outside all blocks (such as a position embedding) joins the block before it. So does a normalisation
        layer that is a block of its own.
        """
        parameters = dict(self.network.named_parameters())
        units = _units(self.network)
        groups: dict[str, list[str]] = {}
        current = ""
        for name, (first, _) in self.trace.states.items():
            if name not in parameters or first <= at:
                continue
            unit = next((unit for unit in units if name.startswith(unit + ".")), current)
            inside = self.network.get_submodule(unit).parameters()
            if not groups or (unit != current and any(parameter.ndim > 1 for parameter in inside)):
                current = unit
            groups.setdefault(current, []).append(name)
        return tuple(tuple(group) for group in groups.values())


def _is_last(backbone: Backbone, layer: str) -> bool:
    return bool(layer) and backbone.layer in (layer, f"input of {layer}")


def _states(network: nn.Module) -> list[str]:
    return [name for name, _ in [*network.named_parameters(), *network.named_buffers()]]


def _units(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the blocks of ``network`` that have parameters, in the order of registration.

    A block is a module that is not merely a list of modules and has no more than half of the network's parameters.
    """
    total = sum(parameter.numel() for parameter in network.parameters())

    def visit(name: str, module: nn.Module) -> list[str]:
        size = sum(parameter.numel() for parameter in module.parameters())
        children = [(f"{name}.{leaf}".lstrip("."), child) for leaf, child in module.named_children()]
        if not size:
            return []
        if not children or not (type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict) or 2 * size > total):
            return [name]
        return [unit for each in children for unit in visit(*each)]

    return tuple(visit("", network))
