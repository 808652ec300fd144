"""A network in training: the tail of a divided backbone, followed by a head. Some of its layers may be frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx, nn

from featstore.finetuning.partition import Partition
from featstore.heads.models import LinearModel
from featstore.heads.network import NetworkModel

_SMALLEST_MAP: Final = 17
"""Smallest side of an input map for the auxiliary classifier of Inception v3; pictures of 299 pixels give a side of 17.
"""


class Standardise(nn.Module):
    """Fixed standardisation of features (n, d): ``(x - mean) / spread``, with buffers of shape (d,)."""

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, features: Tensor) -> Tensor:
        """Return the standardised features."""
        return (features - self.mean) / self.spread


class TunedNetwork(nn.Module):
    """The tail of a divided backbone with a head: (n, *partition.shape) -> logits (n, c), c = 1 for two classes.

    ``auxiliary``: the auxiliary classifier of Inception v3, see ``auxiliary_classifier``; with it, the network in train
    mode returns (logits, auxiliary logits). ``trunk``: if given, the network takes pictures (n, 3, s, s), and the trunk
    runs in eval mode without gradients. Frozen modules (see ``set_trainable``) stay in eval mode after ``train()``.
    """

    def __init__(
        self, partition: Partition, head: nn.Module, auxiliary: nn.Module | None = None, trunk: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.tail, self.head, self.auxiliary, self.trunk = partition.tail, head, auxiliary, trunk
        # The tuple hides this module from parameters() and state_dict(): it consists of the modules of the tail.
        self._branching = (partition.branching,)
        self._frozen: tuple[nn.Module, ...] = ()
        set_trainable(self, partition, frozenset())

    def forward(self, inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (n, c); in train mode with an auxiliary classifier (logits, auxiliary logits)."""
        if self.trunk is not None:
            with torch.no_grad():
                inputs = self.trunk(inputs)
        (branching,) = self._branching
        if self.training and self.auxiliary is not None and branching is not None:
            features, between = branching(inputs)
            return self.head(features), self.auxiliary(between)
        logits: Tensor = self.head(self.tail(inputs))
        return logits

    def train(self, mode: bool = True) -> TunedNetwork:
        """Set train or eval mode; frozen modules stay in eval mode."""
        super().train(mode)
        for module in (*self._frozen, *([] if self.trunk is None else [self.trunk])):
            module.eval()
        return self

    def freeze(self, modules: tuple[nn.Module, ...]) -> None:
        """Keep ``modules`` in eval mode from now on, instead of the modules of earlier calls."""
        self._frozen = modules
        self.train(self.training)

    def freeze_also(self, modules: Iterable[nn.Module]) -> None:
        """Keep ``modules`` in eval mode too, until the next call of ``freeze``; their parameters may still be trained."""
        self.freeze((*self._frozen, *modules))


def set_trainable(network: TunedNetwork, partition: Partition, frozen: frozenset[str]) -> None:
    """Freeze the parameters and buffers of the tail whose names are in ``frozen``; train all others and the head.

    The names are those in the backbone's module; names that are not in the tail have no effect. Frozen parameters get
    no gradient. Modules whose parameters and buffers are all frozen stay in eval mode, so that BatchNorm statistics do
    not change. Modules without parameters (dropout, stochastic depth) in the frozen part stay in eval mode too. The
    function can be called again with another set of names.
    """
    for name, parameter in network.tail.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for module in (network.head, network.auxiliary):
        if module is not None:
            module.requires_grad_(True)
    if network.trunk is not None:
        network.trunk.requires_grad_(False)
    network.freeze(tuple(_frozen_modules(partition.tail, frozen)))


def _frozen_modules(tail: nn.Module, frozen: frozenset[str]) -> Iterator[nn.Module]:
    leaves = list(_leaves(tail))
    held = [_is_frozen(tail, name, frozen) for name, _ in leaves]
    last = max((number for number, is_held in enumerate(held) if is_held), default=-1)
    for number, (name, block) in enumerate(leaves):
        # A module without parameters is frozen if the next module is frozen, or if the module is part of a frozen
        # block.
        inside = number < last or (block != "" and _is_frozen(tail, block, frozen))
        if held[number] or (inside and not _states(tail, name)):
            yield tail.get_submodule(name)


def _is_frozen(tail: nn.Module, name: str, frozen: frozenset[str]) -> bool:
    states = _states(tail, name)
    return bool(states) and states <= frozen


def _leaves(tail: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield each innermost module of ``tail``, in the order of computation, with the name of the block that contains
    it.

    The name is "" for a module that is directly in the network or in a list of modules.
    """
    if not isinstance(tail, fx.GraphModule):
        yield from ((name, "") for name, module in tail.named_modules() if name and not list(module.children()))
        return
    seen = set()
    for node in tail.graph.nodes:
        name = str(node.target)
        if node.op != "call_module" or name in seen:
            continue
        seen.add(name)
        around = dict(node.meta.get("nn_module_stack", {}).values())
        block = name.rpartition(".")[0]
        yield name, "" if around.get(block, nn.Sequential) is nn.Sequential else block


def _states(network: nn.Module, name: str) -> set[str]:
    try:
        module = network.get_submodule(name)
    except AttributeError:
        return set()
    return {each for each, _ in [*module.named_parameters(name), *module.named_buffers(name)]}


def head_from_model(model: LinearModel | NetworkModel, dropout: float = 0.0) -> nn.Module:
    """Return a trained head as a network of torch in float32: features (n, d) -> logits (n, c).

    The logits are the decision values of ``model`` times its scale, so their sigmoid or softmax gives the probabilities
    of ``model``. ``dropout``: share of the hidden units that a training step leaves out.
    """
    if isinstance(model, LinearModel):
        return _linear(model.scale * model.coef, model.scale * model.intercept)
    layers: list[nn.Module] = [Standardise(_single(model.mean), _single(model.spread))]
    last = len(model.weights) - 1
    for number, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        factor = model.scale if number == last else 1.0
        layers.append(_linear(factor * weight.astype(np.float64), factor * bias.astype(np.float64)))
        layers += [nn.ReLU(), nn.Dropout(dropout)] if number < last else []
    return nn.Sequential(*layers)


def model_from_head(head: nn.Module, scale: float = 1.0) -> LinearModel | NetworkModel:
    """Convert a ``head`` that ``head_from_model`` made back to a NumPy model; the head may have been trained since.

    The decision values are the head's logits. ``scale`` multiplies them before the sigmoid or softmax.
    """
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    weights, biases = [_numpy(layer.weight) for layer in linear], [_numpy(layer.bias) for layer in linear]
    if isinstance(head, nn.Linear):
        return LinearModel(weights[0].astype(np.float64), biases[0].astype(np.float64), scale)
    (first,) = (module for module in head.modules() if isinstance(module, Standardise))
    mean, spread = _numpy(first.mean).astype(np.float64), _numpy(first.spread).astype(np.float64)
    return NetworkModel(tuple(weights), tuple(biases), mean, spread, scale)


def _linear(weight: Any, bias: Any) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight, made.bias = nn.Parameter(_single(weight)), nn.Parameter(_single(bias))
    return made


def _single(array: Any) -> Tensor:
    # Copy the values into memory of torch, which is aligned to 64 bytes: the alignment can change the last bits.
    return torch.from_numpy(np.array(array, np.float32)).clone()


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().to(torch.float32).numpy().copy()


def auxiliary_classifier(partition: Partition, outputs: int, seed: int) -> nn.Module | None:
    """Return an untrained auxiliary classifier of Inception v3 with ``outputs`` outputs, initialised as by its authors.

    Returns None if the backbone is another network, if the classifier's input is in the trunk, or if the pictures are
    too small. The authors' classifier needs maps of at least 17 x 17, from pictures of 299 x 299 pixels. torch's random
    state is restored. The classifier is used only in training; it is never saved.
    """
    from torchvision.models.inception import InceptionAux

    if partition.branching is None or min(partition.auxiliary_shape[1:]) < _SMALLEST_MAP:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made: nn.Module = InceptionAux(partition.auxiliary_shape[0], outputs)
        for module in made.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # torchvision's Inception3 uses 0.1 for layers that do not set a standard deviation.
                nn.init.trunc_normal_(module.weight, 0.0, float(getattr(module, "stddev", 0.1)), -2.0, 2.0)
    return made


def parameter_groups(
    network: TunedNetwork, partition: Partition, rate: float, layer_decay: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return the parameters of tail and head as groups for an optimiser of torch, with learning rates by depth.

    The head learns with ``rate``, the last block of the tail with ``rate * layer_decay``, the block before with
    ``rate * layer_decay ** 2`` (layer-wise decay as in BEiT, arXiv 2106.08254). Biases and the parameters of
    normalisation layers have no weight decay. Frozen parameters are included, so that the same optimiser can be used
    after layers are unfrozen: optimisers do not change parameters without a gradient. The entry ``names`` of each group
    has the names of its parameters.
    """
    depths = [
        [(f"tail.{name}", network.tail.get_parameter(name)) for name in group] for group in reversed(partition.groups)
    ]
    others = [(name, each) for name, each in network.named_parameters() if name.startswith(("head.", "auxiliary."))]
    groups: list[dict[str, Any]] = []
    for depth, members in enumerate([others, *depths]):
        for small in (False, True):
            chosen = [(name, each) for name, each in members if (each.ndim < 2) is small]
            if chosen:
                names, parameters = zip(*chosen, strict=True)
                group = {"params": list(parameters), "names": list(names), "lr": rate * layer_decay**depth}
                groups.append({**group, "weight_decay": 0.0 if small else weight_decay})
    return groups


def trained_parameters(network: nn.Module) -> int:
    """Return the number of values of all parameters that are trained."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
