"""Turn texts into vectors that are comparable with the stored vectors of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featstore.embed.geometry import Geometry
from featstore.errors import UsageError
from featstore.store.origin import Origin
from featstore.text import printable

if TYPE_CHECKING:
    from featstore.backbones import Backbone

LARGEST_TEXT = 10_000
"""Largest number of characters in a query text or a text that describes a class."""


def open_backbone_with_text(
    origin: Origin, what: str, *, weights: str | None = None, backbone: str | Backbone | None = None
) -> Backbone:
    """Load the backbone that made the features of ``what``, with its text tower (text encoder), and check that it is
    the same.

    ``weights``, ``backbone``: as in open_embedder; no engine is opened. Raises UsageError if the backbone has no text
    tower; this is checked by the backbone's name before it is loaded, if possible. Raises IdentityError if the backbone
    is not the one recorded in ``origin``.
    """
    from featstore.embed.recipe import load_again, of_backbone

    identity = origin.identity
    identity.require_pictures(what)
    if backbone is None or isinstance(backbone, str):
        _require_text(identity.backbone, what)
        backbone = load_again(identity, origin.weights_name, backbone, weights, what)
    backbone = Geometry.of(identity).apply(backbone)
    identity.check(replace(identity, **of_backbone(backbone)), what)
    require_text_tower(backbone, what)
    return backbone


def _require_text(name: str, what: str) -> None:
    from featstore.backbones import exists, has_text

    if exists(name) and not has_text(name):
        raise UsageError(f"{what}: has features of {_without(name)}")


def require_text_tower(backbone: Backbone, what: str) -> None:
    """Raise UsageError if ``backbone`` has no text tower; ``what``: path of its features, for the message."""
    if backbone.text is None:
        raise UsageError(f"{what}: has features of {_without(backbone.name)}" if what else _without(backbone.name))


def _without(name: str) -> str:
    return f"{printable(name)}, a network without a text tower; texts need one with it, such as open_clip/ViT-B-32"


def embed_texts(backbone: Backbone, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors (n, d) of ``texts``, scaled to length 1. Raises UsageError for texts that cannot be used."""
    import torch

    if backbone.text is None:
        raise UsageError(_without(backbone.name))
    for text in texts:
        if not text.strip() or len(text) > LARGEST_TEXT:
            raise UsageError(f"a text has to have 1 to {LARGEST_TEXT:,} characters, not {len(text.strip()):,}")
    with torch.inference_mode():
        made: torch.Tensor = backbone.text.module(list(texts))
    vectors: NDArray[np.float32] = np.asarray(made.float().cpu().numpy())
    if vectors.shape != (len(texts), backbone.dimension) or not np.isfinite(vectors).all():
        raise UsageError(
            f"the text tower of {backbone.name} gives {vectors.shape} for {len(texts)} texts, where finite numbers of the "
            f"shape ({len(texts)}, {backbone.dimension}) are needed; use other weights"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
