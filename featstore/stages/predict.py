"""Predict classes with probabilities from a head and pictures."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.artifacts import open_head, origins_of_head
from featstore.columns import column
from featstore.embed.embedder import Embedder, Input, count_inputs, inputs_of, open_embedder
from featstore.embed.progress import Progress
from featstore.errors import FeatstoreError, UsageError
from featstore.store import manifest as manifests
from featstore.store.origin import STACKED, origin_of_store, state_of_store
from featstore.store.region_views import By, check_how, numbered
from featstore.store.stacked import StackedStores, match_origins
from featstore.text import counted

if TYPE_CHECKING:
    import pandas as pd

    from featstore.backbones import Backbone
    from featstore.heads import TrainedHead


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture, or the reason why there is none.

    ``label``: the class; None for an unreadable picture, explained by ``reason`` and ``message``. ``probabilities``
    (classes,): float64 in the order of the head's classes.
    """

    key: str
    label: str | None
    probabilities: NDArray[np.float64] | None
    reason: str = ""
    message: str = ""

    @property
    def probability(self) -> float | None:
        """Probability of ``label``."""
        return None if self.probabilities is None else float(self.probabilities.max())

    def __repr__(self) -> str:
        result = f"{self.label!r}, {self.probability:.4f}" if self.label is not None else self.reason
        return f"<Prediction {self.key!r}: {result}>"

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the prediction as JSON."""
        if self.label is None or self.probabilities is None:
            return {"key": self.key, "label": None, "reason": self.reason, "message": self.message}
        probabilities = dict(zip(classes, self.probabilities.tolist(), strict=True))
        return {"key": self.key, "label": self.label, "probability": self.probability, "probabilities": probabilities}


class Classifier(Protocol):
    """What predicts from vectors: a trained head, or texts."""

    @property
    def classes(self) -> list[str]: ...
    def predict_blocks(self, vectors: Any, /) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]: ...


class Predictions:
    """The predictions of one call, computed on the first iteration and kept for later ones.

    ``classes``: order of the probabilities. ``notes``: warnings for the user.
    """

    def __init__(self, classes: list[str], make: Callable[[], Iterator[Prediction]], notes: list[str]) -> None:
        self.classes, self.notes = classes, notes
        self._make, self._kept = make, CachedIterator(make)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._kept)

    def stream(self) -> Iterator[Prediction]:
        """Compute the predictions again without keeping them, in constant memory."""
        return self._make()

    def __repr__(self) -> str:
        made = f"{self._kept.made:,} made" + ("" if self._kept.whole else " so far")
        return f"<Predictions of {counted(len(self.classes), 'class', 'classes')}: {made}>"

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame: key, label (categorical), probability, one column of probabilities per class, reason,
        message.

        If a class has the name of one of these columns, its column gets a trailing underscore. For unreadable pictures
        label and probabilities are missing, and ``reason`` and ``message`` explain.
        """
        import pandas as pd

        found = list(self)
        nothing = np.full(len(self.classes), np.nan)
        rows = [nothing if one.probabilities is None else one.probabilities for one in found]
        table = np.stack(rows) if rows else np.zeros((0, len(self.classes)))
        own = ("key", "label", "probability", "reason", "message")
        columns: dict[str, Any] = {
            "key": pd.Series([one.key for one in found], dtype=object),
            "label": pd.Categorical([one.label for one in found], categories=self.classes),
            "probability": np.array([one.probability for one in found], np.float64),
        }
        columns |= {f"{name}_" if name in own else name: table[:, code] for code, name in enumerate(self.classes)}
        columns["reason"] = pd.Series([one.reason for one in found], dtype=object)
        columns["message"] = pd.Series([one.message for one in found], dtype=object)
        return pd.DataFrame(columns)


class CachedIterator:
    """Cache the items of an iterator during the first iteration, so that they can be iterated again."""

    def __init__(self, make: Callable[[], Iterator[Prediction]]) -> None:
        self._source, self._items = make(), list[Prediction]()
        self._error: BaseException | None = None
        self.whole = False

    @property
    def made(self) -> int:
        """Number of items so far."""
        return len(self._items)

    def __iter__(self) -> Iterator[Prediction]:
        for place in itertools.count():
            if place == len(self._items):
                if self._error is not None:
                    # A later iteration must raise the error too, instead of ending early.
                    raise self._error
                if self.whole:
                    return
                try:
                    self._items.append(next(self._source))
                except StopIteration:
                    self.whole = True
                    return
                except BaseException as error:
                    stopped = FeatstoreError("these predictions were interrupted; call predict again")
                    self._error = error if isinstance(error, Exception) else stopped
                    raise
            yield self._items[place]


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
    """Classify ``inputs``: picture files, folders, tables, archives, or a store, which has the vectors already.

    Every picture gets a Prediction; that of an unreadable picture has a reason. Pictures go through the backbone,
    weights and preprocessing that the head was trained on (``weights`` and ``backbone``: see open_embedder). For a head
    that was trained on several stores, give one store per backbone in any order, or pictures, which go through all
    backbones; then ``weights`` and ``backbone`` are sequences in the order of the head's stores. ``trust``: types that may
    be built for a head of another package's class, see featstore.load_head. ``by`` "parent": one prediction for each
    picture of a store with regions; ``pool``: the "mean" of its regions' probabilities, or of each class the "max",
    which do not sum to 1. ``progress`` is called after every batch of pictures, from another thread; a total of 0
    means unknown. Raises UsageError, IdentityError
    (features of another identity), DamagedError.
    """
    loaded = open_head(head, trust) if isinstance(head, str | os.PathLike) else head
    paths = _paths(inputs)
    what = os.fspath(head) if isinstance(head, str | os.PathLike) else "the head"
    check_how(pool)
    if by not in (None, "parent"):
        raise UsageError(f"predictions are joined by parent, not by {by!r}")
    stores = [path for path in paths if is_store(path)]
    if stores:
        if len(stores) < len(paths):
            raise UsageError(f"{os.fspath(stores[0])}: is a store; name one store, or pictures and folders")
        opened = StackedStores.open(stores)
        if len(stores) == 1 and STACKED not in loaded.identity:
            loaded.check_identity(opened.fingerprint, opened.identity)
        else:
            opened = StackedStores(match_origins(origins_of_head(loaded, what), opened.stores, what))
        notes = [*state_of_store(opened.first), *opened.notes()]
        if by is not None:
            return Predictions(loaded.classes, partial(_of_parents, loaded, opened, pool), notes)
        return Predictions(loaded.classes, partial(_of_stores, loaded, opened), notes)
    if by is not None:
        raise UsageError("only predictions for a store are joined by parent; extract the pictures into one")
    origins = origins_of_head(loaded, what)
    embedders = [
        open_embedder(origin, what, weights=name, backbone=given, engine=engine, device=device, inputs=paths)
        for origin, name, given in zip(
            origins, _for_each(weights, len(origins)), _for_each(backbone, len(origins)), strict=True
        )
    ]

    tally = None if progress is None else _Tally(progress, paths)

    return Predictions(loaded.classes, partial(_of_pictures, loaded, embedders, paths, batch, workers, tally), [])


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
    progress: Callable[[Progress], None] | None = None,
) -> Predictions:
    """Classify ``inputs`` by texts, without training (zero shot): pictures, or a store.

    ``texts``: of each class, one or more, see heads.zero_shot. A store needs no pictures, and its backbone is loaded for its
    text tower; pictures need ``backbone``, and ``weights`` if not the default ones. Probabilities are a softmax over the
    classes, and not calibrated. Raises UsageError, also if the backbone has no text tower; IdentityError; DamagedError.
    """
    from featstore.embed.embedder import make_embedder
    from featstore.embed.texts import embed_texts, open_backbone_with_text, require_text_tower
    from featstore.heads.zero_shot import ZeroShotHead

    paths = _paths(inputs)
    stores = [path for path in paths if is_store(path)]
    if stores and len(paths) > 1:
        raise UsageError(f"{os.fspath(stores[0])}: is a store; name one store, or pictures and folders")
    if stores:
        opened = StackedStores.open(stores)
        what = os.fspath(stores[0])
        loaded = open_backbone_with_text(origin_of_store(opened.first), what, weights=weights, backbone=backbone)
    else:
        from featstore.backbones import load_backbone

        if backbone is None:
            raise UsageError(
                "pictures need a network with a text tower; name it by --backbone, such as open_clip/ViT-B-32"
            )
        loaded = load_backbone(backbone, weights) if isinstance(backbone, str) else backbone
        require_text_tower(loaded, "--backbone")
    made = embed_texts(loaded, [text for several in texts.values() for text in several])
    assert loaded.text is not None
    head = ZeroShotHead.of({name: list(several) for name, several in texts.items()}, made, loaded.text.scale)
    if stores:
        notes = [*state_of_store(opened.first), *opened.notes()]
        return Predictions(head.classes, partial(_of_stores, head, opened), notes)
    embedder = make_embedder(loaded, engine=engine, device=device)
    tally = None if progress is None else _Tally(progress, paths)
    return Predictions(head.classes, partial(_of_pictures, head, [embedder], paths, batch, workers, tally), [])


def _paths(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    """Return ``inputs`` as a list. Raises UsageError if there are none."""
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(column(inputs, "pictures"))
    if not paths:
        raise UsageError("there is nothing to classify; name pictures, a folder or a store")
    return paths


def _for_each(given: Any, count: int) -> list[Any]:
    """Return ``given`` as a list of one value for each of ``count`` backbones. Raises UsageError for another number."""
    if given is None:
        return [None] * count
    several = list(given) if isinstance(given, list | tuple) else [given]
    if len(several) != count:
        raise UsageError(
            f"the head has features of {count} backbone{'s' * (count > 1)}, and weights (or backbones) are given for "
            f"{len(several)}; give them for each, in the order of the head's stores"
        )
    return several


class _Tally:
    """Report to ``progress`` how many pictures of ``paths`` went through the network."""

    def __init__(self, progress: Callable[[Progress], None], paths: Sequence[str | os.PathLike[str]]) -> None:
        self._progress, self._total = progress, count_inputs(paths)
        self._done = self._failed = 0
        progress(Progress(0, self._total, 0))

    def __call__(self, pictures: int, failures: int) -> None:
        self._done, self._failed = self._done + pictures, self._failed + failures
        self._progress(Progress(self._done, self._total, self._failed))


def _embedded(
    embedders: Sequence[Embedder],
    paths: Sequence[str | os.PathLike[str]],
    batch: int,
    workers: int | None,
    tally: _Tally | None,
) -> Iterator[tuple[list[Input], dict[int, tuple[str, str]], NDArray[Any]]]:
    """Yield inputs, their failures by place, and the vectors (m, d) of the others, concatenated over all backbones."""
    streams = itertools.tee(inputs_of(paths), len(embedders))
    # Only the last backbone reports progress: all others are done with its pictures.
    callbacks = [None] * (len(embedders) - 1) + [tally]
    blocks = (
        one.blocks(stream, batch=batch, workers=workers, on_batch=callback)
        for one, stream, callback in zip(embedders, streams, callbacks, strict=True)
    )
    for parts in zip(*blocks, strict=True):
        failures = {at: failure for part in reversed(parts) for at, failure in part.failures.items()}
        kept = [at for at in range(len(parts[0].inputs)) if at not in failures]
        vectors = [part.vectors[np.searchsorted(part.ok, kept)] for part in parts]
        yield parts[0].inputs, failures, np.concatenate(vectors, axis=1)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a feature store."""
    return os.path.isfile(os.path.join(path, manifests.NAME))


def _of_pictures(
    head: Classifier,
    embedders: Sequence[Embedder],
    paths: Sequence[str | os.PathLike[str]],
    batch: int,
    workers: int | None,
    tally: _Tally | None,
) -> Iterator[Prediction]:
    for inputs, failures, vectors in _embedded(embedders, paths, batch, workers, tally):
        found = _classified(head, vectors)
        for at, one in enumerate(inputs):
            if at in failures:
                yield Prediction(one.name, None, None, *failures[at])
            else:
                yield Prediction(one.name, *next(found))


def _of_stores(head: Classifier, stores: StackedStores) -> Iterator[Prediction]:
    found = _classified(head, stores.stream(np.flatnonzero(stores.whole)))
    for key, whole in zip(stores.first.keys, stores.whole.tolist(), strict=True):
        if whole:
            yield Prediction(key, *next(found))
        else:
            yield Prediction(key, None, None, "missing", "one of the stores has no vector of this picture")
    for key, failure in stores.first.failures():
        yield Prediction(key, None, None, failure.reason, failure.message)


def _of_parents(head: Classifier, stores: StackedStores, pool: By) -> Iterator[Prediction]:
    """Yield a prediction for each picture; one that has no readable region fails with the reason of its first."""
    names, codes = numbered(stores.first.parents)
    total = np.zeros((len(names), len(head.classes)))
    count = np.zeros(len(names))
    found = _classified(head, stores.stream(np.flatnonzero(stores.whole)))
    for code, (_, probabilities) in zip(codes[stores.whole].tolist(), found, strict=True):
        total[code] = np.maximum(total[code], probabilities) if pool == "max" else total[code] + probabilities
        count[code] += 1
    known = set(names)
    for name, row, regions in zip(names, total, count.tolist(), strict=True):
        if not regions:
            yield Prediction(name, None, None, "missing", "one of the stores has no vector of this picture")
            continue
        joined = row if pool == "max" else row / regions
        yield Prediction(name, head.classes[int(joined.argmax())], joined)
    for key, failure in stores.first.failures():
        parent = stores.first.parent_of(key)
        if parent not in known:
            known.add(parent)
            yield Prediction(parent, None, None, failure.reason, failure.message)


def _classified(head: Classifier, vectors: Any) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield (class, probabilities (classes,)) for each row, block by block."""
    if vectors.shape[0]:
        for codes, probabilities in head.predict_blocks(vectors):
            for code, row in zip(codes.tolist(), probabilities, strict=True):
                yield head.classes[code], row
