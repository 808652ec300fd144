"""The stage from a head and pictures to classes with probabilities."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.artifacts import open_head, origins_of_head
from featstore.embed.embedder import Embedder, Input, count_inputs, inputs_of, open_embedder
from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.store import manifest as manifests
from featstore.store.origin import STACKED, state_of_store
from featstore.store.stacked import StackedStores, in_order_of

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.heads import TrainedHead


@dataclass(frozen=True)
class Prediction:
    """What a head says of one picture, or why it says nothing.

    ``label``: the class, None for a picture that could not be read (then ``reason`` and ``message`` tell why);
    ``probabilities`` (classes,) float64 in the order of the head's classes.
    """

    key: str
    label: str | None
    probabilities: NDArray[np.float64] | None
    reason: str = ""
    message: str = ""

    @property
    def probability(self) -> float | None:
        """The probability of ``label``."""
        return None if self.probabilities is None else float(self.probabilities.max())

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the prediction as JSON."""
        if self.label is None or self.probabilities is None:
            return {"key": self.key, "label": None, "reason": self.reason, "message": self.message}
        probabilities = dict(zip(classes, self.probabilities.tolist(), strict=True))
        return {"key": self.key, "label": self.label, "probability": self.probability, "probabilities": probabilities}


@dataclass(frozen=True)
class Predictions:
    """The predictions, made as they are iterated over (once). ``classes``: the order of the probabilities."""

    classes: list[str]
    made: Iterator[Prediction] = field(repr=False)
    notes: list[str]

    def __iter__(self) -> Iterator[Prediction]:
        return self.made


def predict(
    head: str | os.PathLike[str] | TrainedHead,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    weights: str | Sequence[str | None] | None = None,
    backbone: Backbone | Sequence[Backbone | None] | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    batch: int = defaults.BATCH,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Predictions:
    """Classify ``inputs``: picture files, folders, tables, archives, or a store (whose vectors are there already).

    Every picture is accounted for: one that cannot be read is a Prediction with a reason. Pictures go through the
    very backbone, weights and preprocessing that the head was trained on (``weights`` and ``backbone``: see
    open_embedder). A head that was trained on several stores takes one store of each backbone, in any order, or runs
    all backbones; then ``weights`` and ``backbone`` are sequences in the order of its stores. ``progress`` is called
    after every batch of pictures, from another thread; a total of 0 is not known.
    Raises UsageError, IdentityError (features of another identity), DamagedError.
    """
    loaded = open_head(head) if isinstance(head, str | os.PathLike) else head
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not paths:
        raise UsageError("there is nothing to classify; name pictures, a folder or a store")
    what = os.fspath(head) if isinstance(head, str | os.PathLike) else "the head"
    stores = [path for path in paths if is_store(path)]
    if stores:
        if len(stores) < len(paths):
            raise UsageError(f"{os.fspath(stores[0])}: is a store; name one store, or pictures and folders")
        opened = StackedStores.open(stores)
        if len(stores) == 1 and STACKED not in loaded.identity:
            loaded.check_identity(opened.fingerprint, opened.identity)
        else:
            opened = StackedStores(in_order_of(origins_of_head(loaded, what), opened.stores, what))
        notes = [*state_of_store(opened.first), *opened.notes()]
        return Predictions(loaded.classes, _of_stores(loaded, opened), notes)
    origins = origins_of_head(loaded, what)
    embedders = [
        open_embedder(origin, what, weights=name, backbone=given, engine=engine, device=device, inputs=paths)
        for origin, name, given in zip(
            origins, _for_each(weights, len(origins)), _for_each(backbone, len(origins)), strict=True
        )
    ]

    tally = None if progress is None else _Tally(progress, paths)

    def made() -> Iterator[Prediction]:
        for inputs, failures, vectors in _embedded(embedders, paths, batch, workers, tally):
            found = _classified(loaded, vectors)
            for at, one in enumerate(inputs):
                if at in failures:
                    yield Prediction(one.name, None, None, *failures[at])
                else:
                    yield Prediction(one.name, *next(found))

    return Predictions(loaded.classes, made(), [])


def _for_each(given: Any, count: int) -> list[Any]:
    """Return what is given for each of ``count`` backbones. Raises UsageError where it is given for fewer or more."""
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
    """Tells ``progress`` how many pictures of ``paths`` were sent through the network."""

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
    """Yield inputs, their failures by place, and the vectors (m, d) of the others, of all backbones side by side."""
    streams = itertools.tee(inputs_of(paths), len(embedders))
    # The last backbone tells: what it has done the others have, too.
    tellers = [None] * (len(embedders) - 1) + [tally]
    blocks = (
        one.blocks(stream, batch=batch, workers=workers, told=told)
        for one, stream, told in zip(embedders, streams, tellers, strict=True)
    )
    for parts in zip(*blocks, strict=True):
        failures = {at: failure for part in reversed(parts) for at, failure in part.failures.items()}
        kept = [at for at in range(len(parts[0].inputs)) if at not in failures]
        vectors = [part.vectors[np.searchsorted(part.ok, kept)] for part in parts]
        yield parts[0].inputs, failures, np.concatenate(vectors, axis=1)


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a feature store."""
    return os.path.isfile(os.path.join(path, manifests.NAME))


def _of_stores(head: TrainedHead, stores: StackedStores) -> Iterator[Prediction]:
    found = _classified(head, stores.stream(np.flatnonzero(stores.whole)))
    for key, whole in zip(stores.first.keys, stores.whole.tolist(), strict=True):
        if whole:
            yield Prediction(key, *next(found))
        else:
            yield Prediction(key, None, None, "missing", "one of the stores has no vector of this picture")
    for key, failure in stores.first.failures():
        yield Prediction(key, None, None, failure.reason, failure.message)


def _classified(head: TrainedHead, vectors: Any) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield (class, probabilities (classes,)) of each row, block by block."""
    if vectors.shape[0]:
        for codes, probabilities in head.predict_blocks(vectors):
            for code, row in zip(codes.tolist(), probabilities, strict=True):
                yield head.classes[code], row
