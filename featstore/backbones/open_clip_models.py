"""Models of open_clip as backbones: the image tower makes the features, the text tower vectors for text search."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from featstore.backbones.base import TextTower
from featstore.decode import Preprocessing
from featstore.errors import FeatstoreError, UsageError
from featstore.text import did_you_mean

PREFIX: Final = "open_clip/"
NO_TAG: Final = "pretrained"
"""Name for the weights of a model for which open_clip lists no weights."""
_FILE: Final = "open_clip_model.safetensors"
_FITS: Final = {"shortest": "crop", "squash": "squash"}
"""open_clip's resizing modes, with the corresponding value of ``Preprocessing.fit``."""
_BATCH: Final = 64
"""Number of texts in one forward pass."""


@dataclass(frozen=True)
class OpenClipModel:
    """A model of open_clip. ``name``: its name with the prefix "open_clip/".

    ``weights``: for each tag, the default first, the preprocessing and (repository, file) on the Hugging Face hub; None
    instead of (repository, file) if the weights are not on the hub. ``dimension``: dimension of the vectors; it is
    stored here, because open_clip's configuration lacks it if the image tower is a model of timm.
    """

    name: str
    weights: Mapping[str, tuple[Preprocessing, tuple[str, str] | None]]
    dimension: int

    @property
    def bare(self) -> str:
        """Name of the model in open_clip, without the prefix "open_clip/"."""
        return self.name.removeprefix(PREFIX)

    def construct(self, **options: Any) -> nn.Module:
        """Return the network with image tower and text tower, untrained."""
        network: nn.Module = need().create_model(
            self.bare, pretrained=None, load_weights=False, pretrained_text=False, device="cpu", **options
        )
        return network

    def cut(self, network: nn.Module) -> tuple[str, int]:
        """Set eval mode; return the classifier's name, "" because there is none, and the dimension of the vectors."""
        network.eval().requires_grad_(False)
        return "", self.dimension

    def towers(self, network: nn.Module) -> tuple[nn.Module, TextTower]:
        """Return the image tower and the text tower of ``network``."""
        scale: Any = network.logit_scale
        return _Pictures(network), TextTower(_Texts(network, self.bare).eval(), float(scale.exp()))


def need() -> Any:
    """Return the package open_clip; raise UsageError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import open_clip
    except ImportError:
        raise UsageError(
            "backbones of open_clip need its package; run: pip install 'image-featstore[open_clip]'"
        ) from None
    return open_clip


def names() -> list[str]:
    """Return the names of all models that featstore supports, as open_clip lists them; [] without open_clip."""
    from importlib.util import find_spec

    if find_spec("open_clip") is None:
        return []
    open_clip = need()
    return [PREFIX + name for name in open_clip.list_models() if not _is_foreign(open_clip.get_model_config(name))]


def find(name: str) -> OpenClipModel:
    """Return the model ``name``, ignoring case. Raises UsageError for an unknown or unsupported model.

    A model whose text tower belongs to another library is not supported.
    """
    open_clip = need()
    # Accept only listed names: open_clip itself would also take the name of any repository on the hub.
    known = {one.lower(): one for one in open_clip.list_models()}
    if name.lower() not in known:
        raise UsageError(
            f"open_clip {open_clip.__version__} has no model {name!r}{did_you_mean(name, known.values())}; "
            f"'featstore backbones {PREFIX}' lists them"
        )
    bare = known[name.lower()]
    about = open_clip.get_model_config(bare)
    if _is_foreign(about):
        raise UsageError(
            f"{PREFIX}{bare} has a text tower of another library, which would be downloaded; use another model"
        )
    tags = open_clip.list_pretrained_tags_by_model(bare)
    # Prefer weights on the Hugging Face hub: weights from elsewhere are not safetensors files.
    found = {tag: open_clip.get_pretrained_cfg(bare, tag) for tag in tags}
    ordered = sorted(found, key=lambda tag: not found[tag].get("hf_hub"))
    weights = {tag: (_preprocessing(bare, about, found[tag]), _hub_file(found[tag])) for tag in ordered}
    weights = weights or {NO_TAG: (_preprocessing(bare, about, {}), None)}
    return OpenClipModel(PREFIX + bare, weights, int(about["embed_dim"]))


def _is_foreign(about: Mapping[str, Any]) -> bool:
    return "hf_model_name" in about.get("text_cfg", {})


def _preprocessing(name: str, about: Mapping[str, Any], tag: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing of the model ``name``.

    ``about``, ``tag``: open_clip's configurations of the model and of its weights, from which the values are taken.
    The result is bit-identical to open_clip's own evaluation transform.
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    side, mode = about["vision_cfg"]["image_size"], tag.get("resize_mode", "shortest")
    if not isinstance(side, int) or mode not in _FITS:
        raise UsageError(
            f"{PREFIX}{name} takes pictures of {side} pixels resized by {mode}, which is not made; use another model"
        )
    return Preprocessing(
        resize=side,
        crop=side,
        interpolation=tag.get("interpolation", "bicubic"),
        mean=tuple(float(value) for value in tag.get("mean", OPENAI_DATASET_MEAN)),  # type: ignore[arg-type]
        std=tuple(float(value) for value in tag.get("std", OPENAI_DATASET_STD)),  # type: ignore[arg-type]
        fit=_FITS[mode],
    )


def _hub_file(tag: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (repository, file) of weights on the hub, from open_clip's entry ``tag``; None if ``tag`` names none.

    The entry has the form "organisation/name/" or "organisation/name/file"; without a safetensors file in the entry,
    the file is open_clip's default file.
    """
    parts = (tag.get("hf_hub") or "").strip("/").split("/")
    if len(parts) < 2:
        return None
    return "/".join(parts[:2]), parts[2] if len(parts) > 2 and parts[2].endswith(".safetensors") else _FILE


def convert(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, renamed to the names in ``network``."""
    from open_clip.model import convert_to_custom_text_state_dict

    own_text = hasattr(network, "text") and isinstance(network.text, nn.Module)
    return dict(convert_to_custom_text_state_dict(dict(state))) if own_text else state


class _Pictures(nn.Module):
    """The image tower: (n, 3, h, w) -> (n, d), not scaled to length 1."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.visual: Any = network.visual
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        made = self.visual(pictures)
        # The image tower of CoCa models returns (features, tokens).
        features: Tensor = made[0] if isinstance(made, tuple) else made
        return features


class _Texts(nn.Module):
    """The text tower: n texts -> (n, d), not scaled to length 1. The tokenizer is loaded at the first call."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self._network: Any = network
        self._name = name
        self._tokenizer: Any = None

    def forward(self, texts: list[str]) -> Tensor:
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._name)
        made = []
        for start in range(0, len(texts), _BATCH):
            made.append(self._network.encode_text(self._tokenizer(texts[start : start + _BATCH])))
        return torch.cat(made)


def _tokenizer(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return need().get_tokenizer(name)
    except ImportError as error:
        raise UsageError(
            f"the tokenizer of {PREFIX}{name} needs the package {error.name or 'transformers'}; run: pip install "
            f"{error.name or 'transformers'}"
        ) from None
    except Exception as error:  # The tokenizer comes from the hub: its download raises errors of several packages.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise FeatstoreError(
            f"the tokenizer of {PREFIX}{name} is not on this machine ({reason}); put it into the hub's cache, or use a model "
            "with open_clip's own tokenizer"
        ) from None
