"""The Backbone class, and functions to make a Backbone: remove a network's classifier, hash and check its tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from featstore.decode import Preprocessing
from featstore.errors import FeatstoreError


@dataclass(frozen=True, eq=False)
class TextTower:
    """The part of a network that turns texts into vectors, which can be compared with vectors of pictures.

    ``module``: a list of n texts -> (n, d), in eval mode. ``scale``: factor by which cosines are multiplied before a
    softmax over texts.
    """

    module: nn.Module = field(repr=False)
    scale: float = 100.0


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network cut at its penultimate layer, together with its preprocessing and its name.

    Attributes: ``name``; ``layer``, in words ("input of fc"); ``dimension`` d of the features; ``weights`` as requested
    ("IMAGENET1K_V2", "random:0", a file's name); ``weights_digest``, see ``digest``; ``preprocessing``; ``module``, in
    eval mode on the CPU in float32: (n, 3, crop, crop) normalised -> (n, d); ``text``: the network's text tower, if it
    has one (the digest covers this tower too). If the user chose another layer (see layers.py), ``pool`` says how its
    output is pooled; ``shape`` is the shape of this output if ``pool`` is "none", otherwise ().
    """

    name: str
    layer: str
    dimension: int
    weights: str
    weights_digest: str
    preprocessing: Preprocessing
    module: nn.Module = field(repr=False)
    pool: str = ""
    shape: tuple[int, ...] = ()
    text: TextTower | None = None


def classifier_of(network: nn.Module) -> str:
    """Return the name of the classifier: the last linear or convolutional layer that the network registers.

    This rule was checked for every classification model of torchvision.
    """
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if not names:
        raise FeatstoreError(f"{type(network).__name__} has no linear or convolutional layer to cut at")
    return names[-1]


def cut(network: nn.Module) -> tuple[str, int]:
    """Replace the classifier of ``network`` by the identity, remove auxiliary classifiers, set eval mode.

    Returns the classifier's name and the number of its inputs, which is the dimension of the features.
    """
    name = classifier_of(network)
    parent_name, _, leaf = name.rpartition(".")
    parent = network.get_submodule(parent_name)
    layer: nn.Linear | nn.Conv2d = getattr(parent, leaf)
    dimension = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    setattr(parent, leaf, nn.Identity())
    # Inception and GoogLeNet have auxiliary classifiers for training; forward() skips them if they are None.
    for auxiliary in ("AuxLogits", "aux1", "aux2"):
        if hasattr(network, auxiliary):
            setattr(network, auxiliary, None)
    network.eval().requires_grad_(False)
    return name, int(dimension)


def effective_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors that determine the features: the state dict without BatchNorm's step counters."""
    return {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}


def digest(module: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of the tensors of ``module``.

    The hashed bytes are, for each tensor of ``effective_state`` sorted by name: ``name dtype d0,d1,...``, a newline,
    and the tensor's little-endian bytes. The digest does not depend on the format or name of the weights file, nor on
    the removed classifier.
    """
    sha = hashlib.sha256()
    for name, tensor in sorted(effective_state(module).items()):
        array = tensor.detach().cpu().contiguous().numpy()
        shape = ",".join(map(str, array.shape))
        sha.update(f"{name} {array.dtype.name} {shape}\n".encode())
        sha.update(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).view("u1").data)
    return sha.hexdigest()


def non_finite(module: nn.Module) -> str | None:
    """Return the name of the first tensor that contains NaN or infinity, None if there is no such tensor."""
    for name, tensor in effective_state(module).items():
        # NumPy needs 2 ms for all tensors. torch needs 0.8 s, because it starts its threads for each small tensor.
        if tensor.is_floating_point() and not np.isfinite(tensor.detach().cpu().numpy()).all():
            return name
    return None
