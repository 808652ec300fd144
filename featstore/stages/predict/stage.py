"""Predict classes with probabilities from a head and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from featstore import defaults
from featstore.artifacts import open_head, origins_of_head
from featstore.columns import column
from featstore.embed.embedder import open_embedder
from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.files.model_folder import is_model
from featstore.stages.predict.inputs import Classifier, Tally, of_parents, of_pictures, of_stores
from featstore.stages.predict.result import Predictions
from featstore.store.as_source import is_store
from featstore.store.origin import STACKED, origin_of_store, state_of_store
from featstore.store.region_views import By, check_how
from featstore.store.stacked import StackedStores, match_origins
from featstore.store.targets import ALL_TASKS

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.heads import TrainedHead


def predict(
    head: str | os.PathLike[str] | TrainedHead,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    weights: str | Sequence[str | None] | None = None,
    backbone: str | Backbone | Sequence[str | Backbone | None] | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    batch: int = defaults.BATCH,
    workers: int | None = None,
    trust: Sequence[str] = (),
    by: str | None = None,
    pool: By = "mean",
    progress: Callable[[Progress], None] | None = None,
) -> Predictions:
    """Classify ``inputs``: picture files, folders, tables, archives, or a store, whose vectors are used.

    ``head``: a head, or the path of a head file or a model folder; a model's own network embeds the pictures. Every
    picture gets a Prediction; for an unreadable picture it has a reason instead of a class. Pictures go through
    the backbone, weights and preprocessing that the head was trained on (``weights`` and ``backbone``: see
    open_embedder). For a head that was trained on several stores, ``inputs`` are one store per backbone, in any order,
    or pictures, which go through all backbones. In this case ``weights`` and ``backbone`` are sequences in the order of
    the head's stores. ``trust``: types that may be created when a head of another package's class is loaded, see
    featstore.load_head. ``by`` "parent": one prediction for each picture of a store with regions; ``pool``: the "mean"
    of its regions' probabilities, or the "max" of each class, which do not sum to 1. ``progress`` is called after every
    batch of pictures, from another thread; its total is 0 if unknown.

    Raises UsageError for invalid inputs, IdentityError if the head was trained on other features, DamagedError for a
    damaged head or store.
    """
    loaded = open_head(head, trust, ALL_TASKS) if isinstance(head, str | os.PathLike) else head
    paths = _paths(inputs)
    what = os.fspath(head) if isinstance(head, str | os.PathLike) else "the head"
    _check(by, pool)
    stores = [path for path in paths if is_store(path)]
    if stores:
        if len(stores) < len(paths):
            raise UsageError(f"{os.fspath(stores[0])}: is a store; name one store, or pictures and folders")
        opened = StackedStores.open(stores)
        if len(stores) == 1 and STACKED not in loaded.identity:
            loaded.check_identity(opened.fingerprint, opened.identity)
        else:
            opened = StackedStores(match_origins(origins_of_head(loaded, what), opened.stores, what))
        return _for_stores(loaded, opened, by, pool)
    _require_store(by)
    if weights is None and backbone is None and isinstance(head, str | os.PathLike) and is_model(head):
        from featstore.backbones.model_folder import load_model_backbone

        backbone = load_model_backbone(head)
    origins = origins_of_head(loaded, what)
    embedders = [
        open_embedder(origin, what, weights=name, backbone=given, engine=engine, device=device, inputs=paths)
        for origin, name, given in zip(
            origins, _for_each(weights, len(origins)), _for_each(backbone, len(origins)), strict=True
        )
    ]

    tally = None if progress is None else Tally(progress, paths)

    make = partial(of_pictures, loaded, embedders, paths, batch, workers, tally)
    return Predictions(loaded.classes, make, [], loaded.task)


def predict_by_text(
    texts: Mapping[str, Sequence[str]],
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    backbone: str | Backbone | None = None,
    weights: str | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    batch: int = defaults.BATCH,
    workers: int | None = None,
    by: str | None = None,
    pool: By = "mean",
    progress: Callable[[Progress], None] | None = None,
) -> Predictions:
    """Classify ``inputs`` by texts, without training (zero shot): pictures, or a store.

    ``texts``: for each class one or more texts, see heads.zero_shot. For a store only the text tower of its backbone is
    used, and no pictures are needed. Pictures need ``backbone``, and ``weights`` if not the default weights.
    Probabilities are a softmax over the classes and are not calibrated. ``by``, ``pool``: as in predict.

    Raises UsageError for invalid inputs or a backbone without a text tower; IdentityError if the backbone is not that
    of the store; DamagedError for a damaged store.
    """
    from featstore.embed.embedder import make_embedder
    from featstore.embed.texts import embed_texts, open_backbone_with_text, require_text_tower
    from featstore.heads.zero_shot import ZeroShotHead

    _check(by, pool)
    paths = _paths(inputs)
    stores = [path for path in paths if is_store(path)]
    if stores and len(paths) > 1:
        raise UsageError(f"{os.fspath(stores[0])}: is a store; name one store, or pictures and folders")
    if stores:
        opened = StackedStores.open(stores)
        what = os.fspath(stores[0])
        loaded = open_backbone_with_text(origin_of_store(opened.first), what, weights=weights, backbone=backbone)
    else:
        _require_store(by)
        from featstore.backbones import load_backbone

        if backbone is None:
            raise UsageError(
                "pictures need a network with a text tower; name it by --backbone, such as open_clip/ViT-B-32"
            )
        loaded = load_backbone(backbone, weights) if isinstance(backbone, str) else backbone
        require_text_tower(loaded, "")
    made = embed_texts(loaded, [text for several in texts.values() for text in several])
    assert loaded.text is not None
    head = ZeroShotHead.of({name: list(several) for name, several in texts.items()}, made, loaded.text.scale)
    if stores:
        return _for_stores(head, opened, by, pool)
    embedder = make_embedder(loaded, engine=engine, device=device)
    tally = None if progress is None else Tally(progress, paths)
    return Predictions(head.classes, partial(of_pictures, head, [embedder], paths, batch, workers, tally), [])


def _check(by: str | None, pool: str) -> None:
    check_how(pool)
    if by not in (None, "parent"):
        raise UsageError(f"predictions are joined by parent, not by {by!r}")


def _require_store(by: str | None) -> None:
    if by is not None:
        raise UsageError("only predictions for a store are joined by parent; extract the pictures into one")


def _for_stores(head: Classifier, stores: StackedStores, by: str | None, pool: By) -> Predictions:
    """Return a prediction for each row of ``stores``. If ``by`` is given, return one for each picture, pooled over its
    regions.
    """
    notes = [*state_of_store(stores.first), *stores.notes()]
    make = partial(of_stores, head, stores) if by is None else partial(of_parents, head, stores, pool)
    return Predictions(head.classes, make, notes, head.task)


def _paths(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    """Return ``inputs`` as a list. Raises UsageError if the list is empty."""
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(column(inputs, "pictures"))
    if not paths:
        raise UsageError("there is nothing to classify; name pictures, a folder or a store")
    return paths


def _for_each(given: Any, count: int) -> list[Any]:
    """Return ``given`` as a list of ``count`` values, one per backbone. Raises UsageError if the number differs."""
    if given is None:
        return [None] * count
    several = list(given) if isinstance(given, list | tuple) else [given]
    if len(several) != count:
        raise UsageError(
            f"the head has features of {count} backbone{'s' * (count > 1)}, and weights (or backbones) are given for "
            f"{len(several)}; give them for each, in the order of the head's stores"
        )
    return several
