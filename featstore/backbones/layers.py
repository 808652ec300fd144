"""Use the pooled output of an inner layer of a network as features; run networks at other picture sizes."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from featstore.backbones import architectures
from featstore.backbones.base import Backbone
from featstore.backbones.load import load_backbone, own_function
from featstore.backbones.tracing import until
from featstore.defaults import OUTPUT_OF
from featstore.errors import UsageError
from featstore.text import did_you_mean

LARGEST: Final = 1 << 20
"""Largest allowed dimension of a feature vector."""


@dataclass(frozen=True)
class Layer:
    """A layer whose output can be used as features.

    ``name``: name of the module in the network; ``kind``: name of the module's class; ``shape``: shape of the output
    for one picture, which is a vector (d,), tokens (tokens, channels) or a map (channels, height, width);
    ``channels_last``: whether the module itself returns the map as (height, width, channels).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    channels_last: bool = False


def list_layers(name: str) -> list[Layer]:
    """Return the layers of the backbone ``name`` in the order of computation.

    The shapes are those for the picture size of the default weights. Nothing is downloaded. Raises UsageError for an
    unknown backbone.
    """
    if own_function(name) is not None:
        backbone = load_backbone(name)
        found = layers_of(backbone.module, backbone.preprocessing.crop, backbone.name)
        return [layer for layer in found.values() if layer.name]
    architecture = architectures.find(name)
    module, classifier = _without_weights(architecture)
    found = layers_of(module, architecture.default.preprocessing.crop, architecture.name)
    return [layer for layer in found.values() if layer.name not in ("", classifier)]


def _without_weights(architecture: architectures.Architecture) -> tuple[nn.Module, str]:
    """Return the network of ``architecture`` without trained weights and classifier, and the name of the classifier."""
    network = architecture.empty(architecture.default)
    classifier, _ = architecture.cut(network)
    return architecture.towers(network)[0], classifier


def require_layer(name: str, layer: str) -> None:
    """Raise UsageError if the backbone ``name`` has no module called ``layer``. No weights are loaded.

    A user's own network is not checked, because the user's function builds the network and loads its weights together.
    """
    if own_function(name) is not None:
        return
    architecture = architectures.find(name)
    module, classifier = _without_weights(architecture)
    names = [each for each, _ in module.named_modules() if each]
    if layer == classifier:
        raise UsageError(is_classifier(architecture.name, layer))
    if layer not in names:
        raise UsageError(unknown_layer(architecture.name, layer, [each.name for each in list_layers(name)]))


def layers_of(network: nn.Module, side: int, what: str) -> dict[str, Layer]:
    """Return the layers of ``network`` by name for pictures of ``side`` x ``side`` pixels; "" is the whole network.

    Only modules that run exactly once and return a vector, a map or tokens for each picture are included. Raises
    UsageError, whose message names the backbone ``what``, if the network does not take pictures of this size.
    """
    try:
        outputs = _outputs(_without_values(network), side, "meta")
    # The copy to torch's meta device fails if the network has tensors that are neither parameters nor buffers.
    except Exception:
        try:
            outputs = _outputs(network, side, "cpu")
        except Exception as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise UsageError(f"{what} does not take pictures of {side} x {side} pixels ({reason})") from None
    modules = dict(network.named_modules())
    found = {}
    for name, calls in outputs.items():
        if len(calls) == 1 and (layer := _layer(name, type(modules[name]).__name__, calls[0])) is not None:
            found[name] = layer
    return found


def _without_values(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` on the meta device, on which torch computes only shapes."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): _on_meta(tensor) for tensor in tensors})


def _on_meta(tensor: Tensor) -> Tensor:
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _outputs(network: nn.Module, side: int, device: str) -> dict[str, list[Any]]:
    """Run ``network`` on two pictures; return each module's output shapes (None for an output that is no tensor)."""
    seen: dict[str, list[Any]] = defaultdict(list)

    def note(name: str, _: nn.Module, __: Any, output: Any) -> None:
        seen[name].append(tuple(output.shape) if isinstance(output, Tensor) else None)

    handles = [module.register_forward_hook(partial(note, name)) for name, module in network.named_modules()]
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 1, 1, 1, device=device).expand(2, 3, side, side))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _layer(name: str, kind: str, shape: tuple[int, ...] | None) -> Layer | None:
    if shape is None or len(shape) not in (2, 3, 4) or shape[0] != 2 or 0 in shape:
        return None
    if len(shape) < 4 or shape[2] == shape[3]:
        return Layer(name, kind, shape[1:])
    # Pictures are square, so height and width of a map are equal: the other axis is the channel axis.
    return Layer(name, kind, (shape[3], shape[1], shape[2]), True) if shape[1] == shape[2] else None


def resized(backbone: Backbone, size: int | None, fit: str | None) -> Backbone:
    """Return ``backbone`` for another picture ``size`` and ``fit`` (resizing mode), see Preprocessing.with_geometry.

    Raises UsageError if the network does not take pictures of this size.
    """
    preprocessing = backbone.preprocessing.with_geometry(size, fit)
    if preprocessing.crop == backbone.preprocessing.crop:
        return replace(backbone, preprocessing=preprocessing)
    if backbone.shape:
        raise UsageError(f"{backbone.name}: the maps of {backbone.layer} have one size; set the size before the layer")
    backbone = replace(backbone, module=_for_size(backbone.module, preprocessing.crop, backbone.name))
    made = layers_of(backbone.module, preprocessing.crop, backbone.name).get("")
    if made is None or len(made.shape) != 1:
        raise UsageError(
            f"{backbone.name} gives no vector for pictures of {preprocessing.crop} x {preprocessing.crop} pixels"
        )
    return replace(backbone, preprocessing=preprocessing, dimension=made.shape[0])


def _for_size(network: nn.Module, size: int, what: str) -> nn.Module:
    """Return ``network`` for another picture size; timm resamples position embeddings, if there are any."""
    if not callable(getattr(network, "set_input_size", None)):
        return network
    made: Any = copy.deepcopy(network)
    try:
        made.set_input_size(img_size=(size, size))
    except Exception as error:  # Which type of error timm raises depends on the network.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(f"{what} does not take pictures of {size} x {size} pixels ({reason})") from None
    resized: nn.Module = made.eval().requires_grad_(False)
    return resized


def take(backbone: Backbone, layer: str, pool: str | None = None) -> Backbone:
    """Return ``backbone`` with the pooled output of ``layer`` as features.

    Later layers do not run, except in networks that torch.fx cannot trace. ``pool``: "avg" (default) or "max" over the
    positions of a map or over the patch tokens; "cls", the class token; "cls+mean", the class token followed by the
    mean of the patch tokens; "none", the flattened output, a map in the order (channels, height, width). A layer whose
    output is a vector takes no pool. Raises UsageError for an unknown layer, or a pool that does not fit the layer's
    output.
    """
    if backbone.layer == OUTPUT_OF + layer and pool in (None, backbone.pool):
        return backbone
    found = layers_of(backbone.module, backbone.preprocessing.crop, backbone.name)
    there = found.get(layer) if layer else None
    if backbone.layer == f"input of {layer}":
        raise UsageError(is_classifier(backbone.name, layer))
    if there is None:
        modules = [name for name, _ in backbone.module.named_modules() if name]
        raise UsageError(
            no_vector(backbone.name, layer) if layer in modules else unknown_layer(backbone.name, layer, list(found))
        )
    pool = pool or ("avg" if len(there.shape) > 1 else "")
    prefix = _prefix(backbone.module, there.shape)
    _check_pool(layer, there.shape, pool, prefix)
    module = _Pooled(until(backbone.module, layer), pool, there, prefix)
    channels = there.shape[-1] if len(there.shape) < 3 else there.shape[0]
    dimension = {"none": math.prod(there.shape), "cls+mean": 2 * channels}.get(pool, channels)
    if dimension > LARGEST:
        raise UsageError(
            f"layer: {layer} gives {dimension:,} numbers a picture, and {LARGEST:,} is the most; pool them, or take a "
            "smaller size or a later layer"
        )
    shape = there.shape if pool == "none" else ()
    made = replace(backbone, layer=OUTPUT_OF + layer, dimension=dimension, module=module, pool=pool, shape=shape)
    # Remove the text tower: text vectors can be compared only with the network's final output.
    return replace(made, text=None)


def is_classifier(name: str, layer: str) -> str:
    """Return the message that ``layer`` is the classifier of the backbone ``name``, which was removed."""
    return f"layer: {layer} of {name} is its classifier; without a layer, features are its input"


def no_vector(name: str, layer: str) -> str:
    """Return the message that ``layer`` of the backbone ``name`` does not give one tensor for each picture."""
    return f"layer: {layer} of {name} does not give one vector, map or row of tokens a picture; take one that 'featstore backbones {name}' lists"


def unknown_layer(name: str, layer: str, names: list[str]) -> str:
    """Return the message that the backbone ``name`` has no ``layer``. The message lists similar ``names``."""
    hint = did_you_mean(layer, names) or f"; 'featstore backbones {name}' lists them"
    return f"layer: {name} has no layer {layer!r}{hint}"


def _check_pool(layer: str, shape: tuple[int, ...], pool: str, prefix: int) -> None:
    if len(shape) == 1 and pool:
        raise UsageError(
            f"pool: the layer {layer} gives a vector of {shape[0]:,} numbers, which takes no pool; leave it out"
        )
    if pool.startswith("cls") and (len(shape) == 3 or not prefix):
        kind = "a map" if len(shape) == 3 else "tokens"
        raise UsageError(
            f"pool: the layer {layer} gives {kind} {shape} without a class token; use avg, max or none instead of {pool}"
        )


def _prefix(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the number of tokens (class token, registers) before the patch tokens in an output of ``shape``."""
    known = getattr(network, "num_prefix_tokens", None)
    count = known if isinstance(known, int) else int(isinstance(getattr(network, "class_token", None), Tensor))
    # The number of patch tokens is a square number. Early layers have no class token yet: all their tokens are patch
    # tokens.
    others = shape[0] - count
    return count if len(shape) == 2 and others > 0 and math.isqrt(others) ** 2 == others else 0


class _Pooled(nn.Module):
    """A network that returns the pooled output of ``module``: (n, 3, h, w) -> (n, d)."""

    def __init__(self, module: nn.Module, pool: str, layer: Layer, prefix: int) -> None:
        super().__init__()
        self.module, self.pool, self.prefix = module, pool, prefix
        self.is_map, self.channels_last = len(layer.shape) == 3, layer.channels_last
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        output: Tensor = self.module(pictures)
        if self.channels_last:
            output = output.permute(0, 3, 1, 2)
        if self.pool in ("", "none"):
            return output.flatten(1)
        # The output has the shape (n, positions, channels).
        places = output.flatten(2).transpose(1, 2) if self.is_map else output[:, self.prefix :]
        if self.pool == "max":
            return places.amax(1)
        if self.pool == "avg":
            return places.mean(1)
        return output[:, 0] if self.pool == "cls" else torch.cat([output[:, 0], places.mean(1)], 1)
