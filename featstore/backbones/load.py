"""Load a Backbone by name and weights."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from featstore import defaults
from featstore.backbones import architectures, base, checkpoints, weights_cache
from featstore.backbones.architectures import Architecture, WeightsEntry
from featstore.errors import UsageError

_RANDOM = re.compile(r"random:([0-9]{1,18})")


def load_backbone(name: str = defaults.BACKBONE, weights: str | None = None) -> base.Backbone:
    """Return the backbone ``name`` with ``weights``.

    ``name``: a classification model of torchvision, or ``efficientnet_lite0``. ``weights``: the name of published
    weights (default: the model's DEFAULT); ``random:SEED`` for untrained weights, from the model's constructor after
    torch.manual_seed(SEED); or the path of a checkpoint (.pth, .pt, .safetensors). Random weights and checkpoints use
    the preprocessing of the default weights, unless the checkpoint is a published file by its SHA-256.
    Raises UsageError, FeatstoreError (a download that failed), DamagedError (not the published bytes).
    """
    architecture = architectures.find(name)
    asked = weights or "DEFAULT"
    entry = _published(architecture, asked)
    if entry is not None:
        file = weights_cache.fetch(architecture.name, entry)
        return _from_file(architecture, entry, file, entry.name)
    if asked.startswith("random:"):
        match = _RANDOM.fullmatch(asked)
        if match is None:
            raise UsageError(f"weights {asked!r}: random: takes a whole number of at most 18 digits, as in random:0")
        seed = int(match[1])
        network = architecture.initialised(seed)
        classifier, dimension = base.cut(network)
        return _backbone(architecture, architecture.default, f"random:{seed}", network, classifier, dimension)
    file = Path(asked)
    if not file.exists() and file.suffix not in checkpoints.SUFFIXES:
        raise UsageError(
            f"there are no weights {asked!r} for {architecture.name}; there are {', '.join(architecture.entries)}, "
            "random:SEED, or the path of a checkpoint file"
        )
    return _from_file(architecture, _recognise(architecture, file), file, file.name)


def backbone_name(name: str) -> str:
    """Return the canonical name of the backbone ``name``. Raises UsageError if there is none."""
    return architectures.find(name).name


def known_weights(name: str, weights: str) -> bool:
    """Return whether ``weights`` names published or random weights of the backbone ``name``, and not a file."""
    return _RANDOM.fullmatch(weights) is not None or _published(architectures.find(name), weights) is not None


def _published(architecture: Architecture, asked: str) -> WeightsEntry | None:
    """Return the published weights called ``asked``: a plain name, DEFAULT, or a name prefixed with its enumeration."""
    bare = re.sub(r"^\w+_Weights\.", "", asked)
    return architecture.default if bare == "DEFAULT" else architecture.entries.get(bare)


def _recognise(architecture: Architecture, file: Path) -> WeightsEntry:
    """Return the published weights that ``file`` is a copy of, else the default ones; they determine the preprocessing."""
    if len(architecture.entries) > 1 and file.is_file():
        found = weights_cache.sha256_file(file)
        for entry in architecture.entries.values():
            if found.startswith(entry.sha256):
                return entry
    return architecture.default


def _from_file(architecture: Architecture, entry: WeightsEntry, file: Path, called: str) -> base.Backbone:
    state = checkpoints.read_state(file)
    network = architecture.empty(entry)
    classifier, dimension = base.cut(network)
    checkpoints.fill(network, state, f"the checkpoint {file}", architecture.name, classifier)
    return _backbone(architecture, entry, called, network, classifier, dimension)


def _backbone(
    architecture: Architecture, entry: WeightsEntry, called: str, network: nn.Module, classifier: str, dimension: int
) -> base.Backbone:
    odd = base.non_finite(network)
    if odd is not None:
        raise UsageError(
            f"the weights {called} of {architecture.name} hold NaN or infinity in {odd}, so features at the input of "
            f"{classifier} would be useless; use other weights"
        )
    return base.Backbone(
        name=architecture.name,
        layer=f"input of {classifier}",
        dimension=dimension,
        weights=called,
        weights_digest=base.digest(network),
        preprocessing=entry.preprocessing,
        module=network,
    )
