"""Models of timm as backbones: constructor, preprocessing and location of the weights.

The feature vector is the output of timm's ``forward`` for a model without a classifier (``num_classes=0``).
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from featstore.decode import Preprocessing
from featstore.errors import UsageError
from featstore.text import did_you_mean

PREFIX: Final = "timm/"
NO_TAG: Final = "pretrained"
"""Tag for weights that have no tag in timm; it is used in the names of these weights."""
_NAME: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_SAFE: Final = {"": "model.safetensors", "open_clip_pytorch_model.bin": "open_clip_model.safetensors"}
"""File name in timm's configuration ("" if missing) -> name of the safetensors file with the same weights."""

_FITS: Final = {"center": "crop", "squash": "squash"}
"""timm's crop modes, with the corresponding ``Preprocessing.fit``. timm's "border" pads pictures: not supported."""


@dataclass(frozen=True)
class TimmModel:
    """A model of timm. ``name``: its name with the prefix and the weights' tag, such as timm/resnet18.a1_in1k.

    ``weights``: the tag. ``hub``: (repository, file) of the weights on the Hugging Face hub, or None.
    """

    name: str
    weights: str
    preprocessing: Preprocessing
    hub: tuple[str, str] | None

    def construct(self, **options: Any) -> nn.Module:
        """Return the untrained network without a classifier."""
        timm = need()
        network: nn.Module = timm.create_model(
            self.name.removeprefix(PREFIX), pretrained=False, num_classes=0, **options
        )
        return network


def need() -> Any:
    """Return the package timm; raise UsageError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
    except ImportError:
        raise UsageError("backbones of timm need its package; run: pip install 'image-featstore[timm]'") from None
    return timm


def installed() -> bool:
    """Return whether timm is installed, without importing it."""
    from importlib.util import find_spec

    return find_spec("timm") is not None


def names() -> list[str]:
    """Return the sorted names of all models, each with prefix and tag of its weights; [] if timm is not installed."""
    if not installed():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        timm = need()
        tagged = timm.list_models(pretrained=True)
        plain = set(timm.list_models()) - {name.partition(".")[0] for name in tagged}
    return sorted(PREFIX + name for name in [*tagged, *plain])


def find(name: str) -> TimmModel:
    """Return the model ``name``, with or without a tag. Raises UsageError for an unknown or unsupported model."""
    timm = need()
    architecture, _, tag = name.partition(".")
    # Accept only listed names: timm itself would also take the name of any repository on the hub.
    if not _NAME.fullmatch(name) or not timm.is_model(architecture):
        known = [one.partition(".")[0] for one in timm.list_models()] if _NAME.fullmatch(name) else []
        raise UsageError(
            f"timm {timm.__version__} has no model {name!r}{did_you_mean(architecture, known)}; 'featstore backbones "
            f"{PREFIX}' lists them"
        )
    known_tags = list(timm.models.get_arch_pretrained_cfgs(architecture))
    full = name if tag else _with_default_tag(timm, architecture)
    if tag and full not in known_tags:
        tags = [one.partition(".")[2] for one in known_tags if "." in one]
        raise UsageError(
            f"timm has no weights {tag!r} of {architecture}; there are {', '.join(tags) or 'none'}{did_you_mean(tag, tags)}"
        )
    found = timm.get_pretrained_cfg(full, allow_unregistered=False)
    about = {} if found is None else found.to_dict()
    return TimmModel(
        PREFIX + full,
        full.partition(".")[2] or NO_TAG,
        _preprocessing(PREFIX + full, timm.data.resolve_data_config(pretrained_cfg=about)),
        _hub_file(full, about),
    )


def _with_default_tag(timm: Any, architecture: str) -> str:
    found = timm.get_pretrained_cfg(architecture, allow_unregistered=False)
    tag = "" if found is None else found.tag
    return f"{architecture}.{tag}" if tag else architecture


def _preprocessing(name: str, data: Mapping[str, Any]) -> Preprocessing:
    """Convert timm's data configuration to a Preprocessing; its pixels are bit-identical to those of timm's own
    evaluation transform.
    """
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise UsageError(
            f"{name} takes inputs of {channels} x {height} x {width}; only square colour pictures are made"
        )
    fit, whole = _FITS.get(data["crop_mode"]), data["crop_pct"] == 1
    if fit is None or (fit != "crop" and not whole):
        raise UsageError(
            f"{name} takes pictures cropped by {data['crop_mode']} to {data['crop_pct']}, which is not made; use another model"
        )
    return Preprocessing(
        resize=math.floor(height / data["crop_pct"]),
        crop=height,
        interpolation=data["interpolation"],
        mean=tuple(float(value) for value in data["mean"]),  # type: ignore[arg-type]
        std=tuple(float(value) for value in data["std"]),  # type: ignore[arg-type]
        fit=fit,
    )


def _hub_file(name: str, about: Mapping[str, Any]) -> tuple[str, str] | None:
    repository = about.get("hf_hub_id") or ""
    if not repository:
        return None
    if repository.endswith("/"):
        repository += name
    filename = about.get("hf_hub_filename") or ""
    return repository, _SAFE.get(filename, filename)


def classifiers(network: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's classifiers; most networks have only one classifier."""
    named: Any = network.pretrained_cfg.get("classifier")  # type: ignore[union-attr, operator]
    return (named,) if isinstance(named, str) else tuple(named or ("classifier",))


def cut(network: nn.Module) -> tuple[str, int]:
    """Set eval mode; return the dimension of the features and the name of the classifier, which was left out when the
    network was built.
    """
    network.eval().requires_grad_(False)
    dimension: Any = getattr(network, "head_hidden_size", None) or network.num_features
    return classifiers(network)[0], int(dimension)


def convert(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint under timm's names, without those of classifiers.

    timm's own function converts the names that the original authors of a model use.
    """
    functions = vars(sys.modules[type(network).__module__])
    change: Callable[..., dict[str, Tensor]] | None = functions.get("checkpoint_filter_fn")
    if change is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = change(dict(state), network)
    dropped = tuple(f"{name}." for name in classifiers(network))
    return {name: value for name, value in state.items() if not name.startswith(dropped)}
