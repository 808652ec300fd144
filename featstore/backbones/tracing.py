"""Divide networks with torch.fx: the part that computes a layer's output, and the part that follows.

The parts share the parameters, buffers and innermost modules of the network; nothing is copied.
"""

from __future__ import annotations

import inspect
from typing import Any, Final

from torch import Tensor, fx, nn

_IN_PLACE: Final = ("iadd", "isub", "imul", "itruediv", "ior", "iand")


class Trace:
    """The computation graph of a network in eval mode.

    ``graph``: the graph of torch.fx. Modules whose computation depends on their mode (train or eval), such as
    stochastic depth, are single nodes, so that the parts obey ``train`` and ``eval``. ``outputs``: name of each module
    that runs exactly once and returns one value -> node of this value, in the order of computation. ``places``: node ->
    position in the order of computation. Parameters count as computed where they are first combined with values of the
    picture. Nodes on which the output does not depend (assertions) are left out. ``clean``: nodes after which the
    network can be divided. Every path from the picture to the output goes through such a node, and no parameter is used
    both before and after it. ``states``: name of each parameter and buffer in use -> its first and its last place, in
    the order of computation.
    """

    def __init__(self, network: nn.Module) -> None:
        """Trace ``network``. If torch.fx cannot trace it, the type of the raised error depends on the network."""
        tracer = _Tracer()
        self.network = network
        self.graph = tracer.trace(network, _defaults(network))
        names = {id(module): name for name, module in network.named_modules()}
        single = {name: found[0] for key, found in tracer.found.items() if len(found) == 1 and (name := names[key])}
        (end,) = (node for node in self.graph.nodes if node.op == "output")
        (self.end,) = end.all_input_nodes
        live = ancestors(self.end, None)
        order = [node for node in self.graph.nodes if node in live]
        varying = _varying(order)
        self.places = _places(order, varying)
        self.states: dict[str, tuple[int, int]] = {}
        for node in sorted(order, key=self.places.__getitem__):
            at = self.places[node]
            self.states |= {name: (self.states.get(name, (at, at))[0], at) for name in self.state_of(node)}
        self.clean = self._clean([node for node in order if node in varying])
        kept = [(name, node) for name, node in single.items() if node in live]
        # Sorting is stable: if two layers have the same output, the inner layer, which finishes first, stays first.
        self.outputs = dict(sorted(kept, key=lambda pair: self.places[pair[1]]))

    def _clean(self, order: list[fx.Node]) -> frozenset[fx.Node]:
        """Return the nodes through which all data flows, and which no shared parameter bypasses. ``order``: topological
        order of the nodes.
        """
        uses = {first: 0 for first, _ in self.states.values()}
        for first, last in self.states.values():
            uses[first] = max(uses[first], last)
        clean, furthest = set(), 0
        for node in order:
            at = self.places[node]
            furthest = max(furthest, uses.get(at, 0))
            if furthest <= at:
                clean.add(node)
            furthest = max([furthest, *(self.places[user] for user in node.users if user in self.places)])
        return frozenset(clean)

    def state_of(self, node: fx.Node) -> list[str]:
        """Return the names of the parameters and buffers that ``node`` itself uses."""
        target = str(node.target)
        if node.op == "get_attr":
            return [target]
        if node.op != "call_module":
            return []
        module = self.network.get_submodule(target)
        # Do not use the state dict: it leaves out buffers that are not saved.
        tensors = [*module.named_parameters(target), *module.named_buffers(target)]
        return [name for name, _ in tensors]

    def until(self, end: fx.Node, channels_first: bool = False) -> fx.GraphModule:
        """Return the part that computes ``end`` from pictures, in eval mode.

        ``channels_first``: ``end`` is a map (n, height, width, channels) and is returned as (n, channels, height, width).
        """
        part, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        _copy(self.graph, ancestors(end, None), part, copies)
        made = copies[end]
        part.output(part.call_method("permute", (made, 0, 3, 1, 2)) if channels_first else made)
        return fx.GraphModule(self.network, part).eval()

    def after(self, start: fx.Node | None, channels_first: bool = False, also: fx.Node | None = None) -> fx.GraphModule:
        """Return the part that computes the network's output from the value of ``start`` (None: from pictures).

        The input is never changed, even by layers that work in place. ``channels_first``: as in ``until``, for
        ``start``.
        ``also``: a node whose value is returned too, as in (output, value). The part is in eval mode.
        """
        start = start or next(node for node in self.graph.nodes if node.op == "placeholder")
        part = fx.Graph()
        given = part.placeholder("activations")
        first = part.call_method("permute", (given, 0, 2, 3, 1)) if channels_first else given
        needed = ancestors(self.end, start) | (ancestors(also, start) if also else set())
        if any(_works_in_place(self.network, node) for node in needed):
            first = part.call_method("clone", (first,))
        copies = {start: first}
        if also:
            _copy(self.graph, ancestors(also, start) - {start}, part, copies)
            # The view comes before the later layers, so that autograd adds the gradient of ``also`` after theirs, as in
            # a network that computes its auxiliary classifier before these layers: rounding depends on the order.
            value = part.call_method("view_as", (copies[also], copies[also]))
        _copy(self.graph, needed - copies.keys(), part, copies)
        part.output((copies[self.end], value) if also else copies[self.end])
        return fx.GraphModule(self.network, part).eval()


def until(network: nn.Module, layer: str) -> nn.Module:
    """Return the part of ``network`` that computes the output of ``layer``; parameters are shared, not copied.

    The whole network runs if torch.fx cannot trace it.
    """
    try:
        trace = Trace(network)
        return trace.until(trace.outputs[layer])
    except Exception:  # The type of the error that tracing raises depends on the network.
        return _Observed(network, layer)


def ancestors(node: fx.Node, stop: fx.Node | None) -> set[fx.Node]:
    """Return ``node`` and all nodes on which it depends; the search does not go beyond ``stop``."""
    found, waiting = {node}, [node]
    while waiting:
        current = waiting.pop()
        for before in current.all_input_nodes if current is not stop else ():
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found


def depends_on_mode(module: nn.Module) -> bool:
    """Return whether a method of the class of ``module`` reads ``self.training``. Methods of torch's own classes are
    not searched.
    """
    for kind in type(module).__mro__:
        if kind.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        for name, method in vars(kind).items():
            code = getattr(method, "__code__", None)
            if name not in ("__init__", "train") and code is not None and "training" in code.co_names:
                return True
    return False


class _Tracer(fx.Tracer):
    """A tracer that notes each module's output nodes in ``found``: id of the module -> one entry per call."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, list[fx.Node]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether ``m`` becomes a single node: torch's own modules, and modules that depend on their mode."""
        return super().is_leaf_module(m, module_qualified_name) or depends_on_mode(m)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Trace a call of the module ``m`` as fx.Tracer does, and note the output."""
        output = super().call_module(m, forward, args, kwargs)
        if isinstance(output, fx.Proxy):
            self.found.setdefault(id(m), []).append(output.node)
        return output


def _defaults(network: nn.Module) -> dict[str, Any]:
    """Return the default values of all arguments of ``forward`` but the first, for torch.fx to use as constants."""
    _, *others = inspect.signature(network.forward).parameters.values()
    return {each.name: each.default for each in others if each.default is not inspect.Parameter.empty}


def _varying(order: list[fx.Node]) -> set[fx.Node]:
    """Return the nodes whose values depend on the picture."""
    varying: set[fx.Node] = set()
    for node in order:
        if node.op == "placeholder" or varying.intersection(node.all_input_nodes):
            varying.add(node)
    return varying


def _places(order: list[fx.Node], varying: set[fx.Node]) -> dict[fx.Node, int]:
    """Return the position of each node; one that does not depend on the picture has that of the first node using it."""
    places: dict[fx.Node, int] = {}
    for number in reversed(range(len(order))):
        node = order[number]
        users = [places[user] for user in node.users if user in places]
        places[node] = number if node in varying or not users else min(users)
    return places


def _copy(graph: fx.Graph, needed: set[fx.Node], part: fx.Graph, copies: dict[fx.Node, fx.Node]) -> None:
    for node in graph.nodes:
        if node in needed:
            copies[node] = part.node_copy(node, copies.__getitem__)


def _works_in_place(network: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        parts = network.get_submodule(str(node.target)).modules()
        return any(getattr(part, "inplace", False) for part in parts)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return bool(node.kwargs.get("inplace")) or name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


class _Observed(nn.Module):
    """Runs a network and returns the output of one inner layer, for networks that torch.fx cannot trace."""

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def forward(self, pictures: Tensor) -> Tensor:
        found: list[Tensor] = []
        # Copy the output, because later layers may change it in place.
        noted = self.network.get_submodule(self.layer).register_forward_hook(
            lambda _, __, output: found.append(output.clone())
        )
        try:
            self.network(pictures)
        finally:
            noted.remove()
        return found[0]
