"""Load a Backbone by name and weights."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from featstore import defaults
from featstore.backbones import architectures, base, checkpoints, open_clip_models, plugins, weights_cache
from featstore.backbones.architectures import Architecture, WeightsEntry
from featstore.errors import UsageError

_RANDOM = re.compile(r"random:([0-9]{1,18})")


def load_backbone(name: str = defaults.BACKBONE, weights: str | None = None) -> base.Backbone:
    """Return the backbone ``name`` with ``weights``. ``name`` must come from the user: it may name code to import.

    ``name``: a classification model of torchvision, ``efficientnet_lite0``, ``efficientnet_lite1``,
    ``efficientnet_lite2``, ``timm/NAME``, ``open_clip/NAME``; or a function of the user, as ``package.module:function``
    or the name of an entry point (see plugins.py). The user's function loads its weights itself, so ``weights`` must be
    None; for other names see ``load_recorded``.
    Raises the errors of ``load_recorded`` and plugins.load.
    """
    spec = own_function(name)
    if spec is None:
        return load_recorded(name, weights)
    if weights is not None:
        raise UsageError(f"{name}: loads its weights itself; leave --weights out")
    backbone = plugins.load(spec)
    if exists(backbone.name):
        raise UsageError(f"{spec}: is called {backbone.name}, as another backbone is; return another name")
    return backbone


def own_function(name: str) -> str | None:
    """Return the user's function to which ``name`` refers, as "package.module:function".

    ``name``: "package.module:function", or the name of an entry point. Returns None for a built-in or unknown backbone.
    """
    if plugins.is_spec(name):
        return name
    return None if exists(name) else plugins.installed().get(name)


def exists(name: str) -> bool:
    """Return whether ``name`` is a built-in backbone, not the user's own function."""
    try:
        architectures.find(name)
    except UsageError:
        return False
    return True


def has_text(name: str) -> bool:
    """Return whether a built-in backbone has a text tower, which makes vectors of texts for search."""
    return name.lower().startswith(open_clip_models.PREFIX)


def load_recorded(name: str, weights: str | None) -> base.Backbone:
    """Return the built-in backbone ``name`` with ``weights``.

    ``name`` may come from a store, head or index: no code of the user is imported. ``weights``: the name of published
    weights (default: the model's DEFAULT); ``random:SEED`` for untrained weights, from the model's constructor after
    torch.manual_seed(SEED); or the path of a checkpoint (.pth, .pt, .safetensors). Random weights and checkpoints use
    the preprocessing of the default weights, unless the SHA-256 shows that a checkpoint is a copy of published weights.
    Raises UsageError, FeatstoreError (failed download), DamagedError (the file is not the published file).
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
        classifier, dimension = architecture.cut(network)
        return _backbone(architecture, architecture.default, f"random:{seed}", network, classifier, dimension)
    file = Path(asked)
    if not file.exists() and file.suffix not in checkpoints.SUFFIXES:
        raise UsageError(
            f"there are no weights {asked!r} for {architecture.name}; there are {', '.join(architecture.entries)}, "
            "random:SEED, or the path of a checkpoint file"
        )
    return _from_file(architecture, _recognise(architecture, file), file, file.name)


def backbone_name(name: str) -> str:
    """Return the canonical name of a built-in backbone. Raises UsageError for an unknown name."""
    return architectures.find(name).name


def known_weights(name: str, weights: str) -> bool:
    """Return whether ``weights`` names published or random weights of the backbone ``name`` rather than a file."""
    return _RANDOM.fullmatch(weights) is not None or _published(architectures.find(name), weights) is not None


def _published(architecture: Architecture, asked: str) -> WeightsEntry | None:
    """Return the published weights named ``asked`` (NAME, DEFAULT, or Enumeration.NAME), None if no weights have this
    name.
    """
    bare = re.sub(r"^\w+_Weights\.", "", asked)
    return architecture.default if bare == "DEFAULT" else architecture.entries.get(bare)


def _recognise(architecture: Architecture, file: Path) -> WeightsEntry:
    """Return the published weights of which ``file`` is a copy (by its SHA-256), otherwise the default weights.

    The caller takes the preprocessing and the constructor arguments from the result.
    """
    if len(architecture.entries) > 1 and file.is_file():
        found = weights_cache.sha256_file(file)
        for entry in architecture.entries.values():
            if found.startswith(entry.sha256):
                return entry
    return architecture.default


def _from_file(architecture: Architecture, entry: WeightsEntry, file: Path, called: str) -> base.Backbone:
    state = checkpoints.read_state(file)
    network = architecture.empty(entry)
    classifier, dimension = architecture.cut(network)
    origin = f"the checkpoint {file}"
    try:
        state = architecture.convert(state, network)
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{origin} does not fit {architecture.name} ({type(error).__name__}: {error})") from None
    try:
        checkpoints.fill(network, state, origin, architecture.name, classifier)
    except UsageError as error:
        alike = architectures.with_parameters(checkpoints.parameters(state))
        seems = [name for name in alike if name != architecture.name]
        if not seems:
            raise
        raise UsageError(
            f"{error}; it has as many parameters as {' or '.join(seems)}, so try --backbone {seems[0]}"
        ) from None
    return _backbone(architecture, entry, called, network, classifier, dimension)


def _backbone(
    architecture: Architecture, entry: WeightsEntry, called: str, network: nn.Module, classifier: str, dimension: int
) -> base.Backbone:
    odd = base.non_finite(network)
    if odd is not None:
        raise UsageError(
            f"the weights {called} of {architecture.name} hold NaN or infinity in {odd}, so features would be useless; use "
            "other weights"
        )
    module, text = architecture.towers(network)
    return base.Backbone(
        name=architecture.name,
        layer=f"input of {classifier}" if classifier else "output",
        dimension=dimension,
        weights=called,
        weights_digest=base.digest(network),
        preprocessing=entry.preprocessing,
        module=module,
        text=text,
    )
