"""Predictions for picture files, for rows of stores, and for whole pictures whose regions are the rows of stores."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.embed.embedder import Embedder, Input, count_inputs, inputs_of
from featstore.embed.progress import Progress
from featstore.stages.predict.result import Prediction
from featstore.store.region_views import By, numbered
from featstore.store.stacked import StackedStores


class Classifier(Protocol):
    """Anything that predicts classes from vectors: a trained head, or texts that describe the classes."""

    @property
    def classes(self) -> list[str]: ...
    @property
    def task(self) -> str: ...
    def choose(self, probabilities: NDArray[np.float64], /) -> NDArray[Any]: ...
    def predict_blocks(self, vectors: Any, /) -> Iterator[tuple[NDArray[Any], NDArray[np.float64]]]: ...


class Tally:
    """Counts the pictures in ``paths`` that the network has processed, and reports the counts to ``progress``."""

    def __init__(self, progress: Callable[[Progress], None], paths: Sequence[str | os.PathLike[str]]) -> None:
        self._progress, self._total = progress, count_inputs(paths)
        self._done = self._failed = 0
        progress(Progress(0, self._total, 0))

    def __call__(self, pictures: int, failures: int) -> None:
        self._done, self._failed = self._done + pictures, self._failed + failures
        self._progress(Progress(self._done, self._total, self._failed))


def of_pictures(
    head: Classifier,
    embedders: Sequence[Embedder],
    paths: Sequence[str | os.PathLike[str]],
    batch: int,
    workers: int | None,
    tally: Tally | None,
) -> Iterator[Prediction]:
    for inputs, failures, vectors in _embedded(embedders, paths, batch, workers, tally):
        found = _classified(head, vectors)
        for at, one in enumerate(inputs):
            if at in failures:
                yield Prediction(one.name, None, None, *failures[at])
            else:
                yield prediction(head, one.name, *next(found))


def _embedded(
    embedders: Sequence[Embedder],
    paths: Sequence[str | os.PathLike[str]],
    batch: int,
    workers: int | None,
    tally: Tally | None,
) -> Iterator[tuple[list[Input], dict[int, tuple[str, str]], NDArray[Any]]]:
    """Yield for each batch of pictures: inputs, failures by position, and vectors (m, d) of the readable inputs.

    The vectors of all backbones are concatenated.
    """
    streams = itertools.tee(inputs_of(paths), len(embedders))
    # Only the last backbone reports progress: when it finishes a picture, the other backbones have finished it too.
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


def of_stores(head: Classifier, stores: StackedStores) -> Iterator[Prediction]:
    found = _classified(head, stores.stream(np.flatnonzero(stores.whole)))
    for key, whole in zip(stores.first.keys, stores.whole.tolist(), strict=True):
        if whole:
            yield prediction(head, key, *next(found))
        else:
            yield Prediction(key, None, None, "missing", "one of the stores has no vector of this picture")
    for key, failure in stores.first.failures():
        yield Prediction(key, None, None, failure.reason, failure.message)


def of_parents(head: Classifier, stores: StackedStores, pool: By) -> Iterator[Prediction]:
    """Yield a prediction for each picture, pooled over its regions.

    If no region of a picture is readable, its prediction has the failure reason of its first region.
    """
    names, codes = numbered(stores.first.parents)
    total = np.full((len(names), len(head.classes) or 1), -np.inf if pool == "max" else 0.0)
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
        yield prediction(head, name, head.choose(joined), joined)
    for key, failure in stores.first.failures():
        parent = stores.first.parent_of(key)
        if parent not in known:
            known.add(parent)
            yield Prediction(parent, None, None, failure.reason, failure.message)


def prediction(head: Classifier, key: str, chosen: Any, probabilities: NDArray[np.float64]) -> Prediction:
    """Return the prediction for ``key``.

    ``chosen``: a class number (classes), a mask (labels,) of the predicted labels (label sets), or the predicted
    number.
    """
    if head.task == "classes":
        return Prediction(key, head.classes[int(chosen)], probabilities)
    if head.task == "numbers":
        return Prediction(key, None, None, number=float(chosen))
    labels = tuple(head.classes[code] for code in np.flatnonzero(chosen).tolist())
    separator: str = getattr(head, "separator", ";")
    return Prediction(key, separator.join(labels), probabilities, labels=labels)


def _classified(head: Classifier, vectors: Any) -> Iterator[tuple[Any, NDArray[np.float64]]]:
    """Yield (class number or mask of chosen labels, probabilities (classes,)) for each of ``vectors``, read block by
    block.
    """
    if vectors.shape[0]:
        for codes, probabilities in head.predict_blocks(vectors):
            yield from zip(codes, probabilities, strict=True)
