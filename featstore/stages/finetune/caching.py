"""Extract the activations of the frozen layers into stores, one per view, beside the model."""

from __future__ import annotations

import errno
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import Tensor, nn

from featstore.backbones import Backbone
from featstore.defaults import OUTPUT_OF
from featstore.embed.pipeline import NOT_FINITE
from featstore.embed.progress import Progress
from featstore.errors import FeatstoreError, IdentityError, UsageError
from featstore.finetuning.inputs import PLAIN, TOO_LARGE, Augmentation
from featstore.finetuning.partition import Partition
from featstore.sources.base import ROWS, Chunk
from featstore.stages.extract import extract
from featstore.store import FeatureStore
from featstore.store.as_source import PARTIAL, StoreSource
from featstore.text import counted

HELD_OUT: Final = "held-out"
"""Name of the store with the plain activations of the held-out pictures, in float32."""
_PRECISION: Final = "fp32"
"""Precision of the frozen layers, on a GPU too: live inputs and the predictions of the tuned model have the same."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FEW: Final = 256
"""Smallest number of pictures for which a faster engine than plain torch is prepared; preparing it takes seconds for
every view.
"""


@dataclass(frozen=True)
class View:
    """A store of the cache: its ``path``, the ``keys`` of its pictures, the number of the augmented view, and the
    dtype.
    """

    path: Path
    keys: list[bytes]
    view: int
    dtype: str


@dataclass(frozen=True)
class Made:
    """The stores of the cache.

    One store for each view of the training pictures, by number of the view, and one for the held-out pictures.
    ``seconds``: duration of the extraction in this run; ``pictures``: number of activations extracted in this run.
    """

    views: dict[int, FeatureStore]
    held_out: FeatureStore
    seconds: float
    pictures: int


def views_of(
    cache: Path, train: list[bytes], held_out: list[bytes], augmentation: Augmentation, dtype: str
) -> list[View]:
    """Return the stores of the cache: one for each view of the ``train`` keys, and one for the plain ``held_out`` keys."""
    numbers = range(1, augmentation.views + 1) if augmentation.views else [PLAIN]
    views = [View(cache / f"view-{number}", train, number, dtype) for number in numbers]
    return [View(cache / HELD_OUT, held_out, PLAIN, "float32"), *views]


class SomeRows(StoreSource):
    """The pictures of a store with the given ``keys``, as a source for extraction."""

    def __init__(self, path: Path, keys: list[bytes], root: str | os.PathLike[str] | None) -> None:
        super().__init__(path, root=root)
        self._keys = frozenset(keys)

    def describe(self) -> dict[str, Any]:
        """Return the description of the source store, marked as that of some of its pictures."""
        return {**super().describe(), PARTIAL: True}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield the pictures with the given keys."""
        for chunk in super().chunks(rows):
            kept = np.array([at for at, key in enumerate(chunk.keys) if key in self._keys], np.int64)
            if len(kept):
                yield chunk.take(kept)


class _Flat(nn.Module):
    """The frozen layers with flattened activations: (n, 3, crop, crop) -> (n, d)."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        output: Tensor = self.trunk(pictures)
        return output.flatten(1)


def trunk_backbone(backbone: Backbone, partition: Partition) -> Backbone:
    """Return the frozen layers of ``backbone`` as a separate backbone, like that of ``--layer LAYER --pool none``."""
    is_map = len(partition.shape) > 1
    return replace(
        backbone,
        layer=OUTPUT_OF + partition.layer,
        dimension=math.prod(partition.shape),
        module=_Flat(partition.trunk),
        pool="none" if is_map else "",
        shape=partition.shape if is_map else (),
        text=None,
    )


def make_cache(
    store: FeatureStore,
    backbone: Backbone,
    views: list[View],
    augmentation: Augmentation,
    *,
    progress: Callable[[Progress], None] | None,
    stop: threading.Event | None,
    options: dict[str, Any],
) -> Made | None:
    """Extract those ``views`` of the pictures of ``store`` that the cache lacks; return None if ``stop`` was set during
    the work.

    ``backbone``: the result of trunk_backbone. ``options``: of extraction (device, workers, batch, root). Raises
    UsageError if a store of the cache has other activations, FeatstoreError if the disk is full or a picture cannot be
    read any more.
    """
    made: dict[int, FeatureStore] = {}
    seconds, pictures = 0.0, 0
    root = options.pop("root", None)
    total = sum(len(each.keys) for each in views)
    engine = "torch" if total < _FEW or any(each.dtype == "float32" for each in views[1:]) else "auto"
    for number, each in enumerate(views):
        name = "held-out pictures" if each.path.name == HELD_OUT else f"view {number} of {len(views) - 1}"
        augmented: dict[str, Any] = {
            "augment": augmentation.policy,
            "view": each.view,
            "augment_seed": augmentation.seed,
        }
        try:
            report = extract(
                SomeRows(store.path, each.keys, root),
                each.path,
                supervised=False,
                progress=None if progress is None else _noting(progress, f"caching {name}"),
                stop=stop,
                backbone=backbone,
                dtype=each.dtype,
                engine=engine,
                precision=_PRECISION,
                decode="fast" if store.identity.decoder != "pillow" else "exact",
                **(augmented if each.view else {}),
                **options,
            )
        except IdentityError as error:
            raise UsageError(
                f"{each.path}: holds activations of other options; remove {each.path.parent}, or name another model with "
                f"--out ({error})"
            ) from None
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise FeatstoreError(
                f"{each.path}: the disk is full; free some space and run the same command again (what was cached is "
                "kept), or run the frozen layers live with --cache none"
            ) from None
        if report.stopped:
            return None
        seconds, pictures = seconds + report.seconds, pictures + report.new_vectors
        opened = FeatureStore.open(each.path)
        _require_same_bytes(store, opened, each.keys)
        made[number] = opened
    held_out = made.pop(0)
    return Made({views[number].view: opened for number, opened in made.items()}, held_out, seconds, pictures)


def _noting(progress: Callable[[Progress], None], note: str) -> Callable[[Progress], None]:
    return lambda value: progress(replace(value, note=note))


def _require_same_bytes(store: FeatureStore, cached: FeatureStore, keys: list[bytes]) -> None:
    """Raise FeatstoreError if the cache lacks pictures of ``keys``, or if it was made from other bytes than the store."""
    places = cached.index_of(keys, missing="mark")
    lacking = int((places < 0).sum())
    reasons = Counter(failure.reason for _, failure in cached.failures()) if lacking else Counter[str]()
    if large := sum(reasons[each] for each in TOO_LARGE):
        raise FeatstoreError(
            f"{cached.path}: {counted(large, 'picture is', 'pictures are')} above the limits of fine-tuning (featstore "
            f"failures {cached.path}), which are the default limits of extract; {store.path} was made with larger limits, or "
            "these pictures have grown: remove them from that store with featstore remove, or extract smaller copies"
        )
    if set(reasons) == {NOT_FINITE}:
        raise FeatstoreError(
            f"{cached.path}: {counted(lacking, 'picture has', 'pictures have')} activations that {cached.identity.dtype} "
            f"cannot hold; remove {cached.path.parent}, and add --dtype float32"
        )
    if lacking:
        raise FeatstoreError(
            f"{cached.path}: {counted(lacking, 'picture')} of {store.path} can no longer be read (featstore failures "
            f"{cached.path}); bring them back, or extract their source into {store.path} again"
        )
    changed = (cached.sha256[places] != store.sha256[store.index_of(keys)]).any(axis=1)
    if changed.any():
        raise FeatstoreError(
            f"{counted(int(changed.sum()), 'picture has', 'pictures have')} changed since {store.path} was made; extract "
            f"their source into {store.path} again, and remove {cached.path.parent}"
        )
