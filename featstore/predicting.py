"""The stage from a head and pictures to classes with probabilities."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults, sealed
from featstore.embedding import inputs_of, open_embedder
from featstore.errors import UsageError
from featstore.origin import origin_of_head, state_of_store
from featstore.store import FeatureStore
from featstore.store import manifest as manifests

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
    weights: str | None = None,
    backbone: Backbone | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    batch: int = defaults.BATCH,
    workers: int | None = None,
) -> Predictions:
    """Classify ``inputs``: picture files, folders, tables, archives, or a store (whose vectors are there already).

    Every picture is accounted for: one that cannot be read is a Prediction with a reason. Pictures go through the
    very backbone, weights and preprocessing that the head was trained on (``weights`` and ``backbone``: see
    open_embedder). Raises UsageError, IdentityError (features of another identity), DamagedError.
    """
    loaded = read_head(head) if isinstance(head, str | os.PathLike) else head
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not paths:
        raise UsageError("there is nothing to classify; name pictures, a folder or a store")
    stores = [path for path in paths if is_store(path)]
    if stores:
        if len(paths) > 1:
            raise UsageError(f"{os.fspath(stores[0])}: is a store; name one store, or pictures and folders")
        store = FeatureStore.open(Path(stores[0]))
        loaded.check_identity(store.fingerprint, store.spec.to_dict())
        return Predictions(loaded.classes, _of_store(loaded, store), state_of_store(store))
    what = os.fspath(head) if isinstance(head, str | os.PathLike) else "the head"
    embedder = open_embedder(
        origin_of_head(loaded, what), what, weights=weights, backbone=backbone, engine=engine, device=device
    )

    def made() -> Iterator[Prediction]:
        for part in embedder.blocks(inputs_of(paths), batch=batch, workers=workers):
            found = _classified(loaded, part.vectors)
            for at, one in enumerate(part.inputs):
                if at in part.failures:
                    yield Prediction(one.name, None, None, *part.failures[at])
                else:
                    yield Prediction(one.name, *next(found))

    return Predictions(loaded.classes, made(), [])


def is_store(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a feature store."""
    return os.path.isfile(os.path.join(path, manifests.NAME))


def read_head(path: str | os.PathLike[str]) -> TrainedHead:
    """Return the head at ``path``. Raises UsageError where there is none, DamagedError where it is not whole."""
    from featstore.heads import load_head

    try:
        if not sealed.begins_like_one(Path(path)):
            raise UsageError(
                f"{os.fspath(path)}: is no head, or its first bytes are damaged; the head comes first: featstore predict HEAD PICTURES"
            )
        return load_head(Path(path))
    except FileNotFoundError:
        raise UsageError(f"{os.fspath(path)}: there is no such head; make one with featstore train") from None
    except IsADirectoryError:
        raise UsageError(f"{os.fspath(path)}: is a folder, not a head; make one with featstore train") from None


def _of_store(head: TrainedHead, store: FeatureStore) -> Iterator[Prediction]:
    keys = iter(store.keys)
    for label, probabilities in _classified(head, store.stream()):
        yield Prediction(next(keys), label, probabilities)
    for key, failure in store.failures():
        yield Prediction(key, None, None, failure.reason, failure.message)


def _classified(head: TrainedHead, vectors: Any) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield (class, probabilities (classes,)) of each row, block by block."""
    if vectors.shape[0]:
        for codes, probabilities in head.predict_blocks(vectors):
            for code, row in zip(codes.tolist(), probabilities, strict=True):
                yield head.classes[code], row
