"""Make query vectors for an index from pictures, keys of the store, vector files, classes, and combinations of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.embed.embedder import Embedder, Input, inputs_of
from featstore.errors import UsageError
from featstore.sources.vectors.numpy_files import read_array
from featstore.store import FeatureStore
from featstore.text import composed, counted, did_you_mean, natural

if TYPE_CHECKING:
    from featstore.indexes.blocks import Metric

Paths = Sequence[str | os.PathLike[str]]
_NAMED = 4
"""Largest number of queries that the name of a combined query lists."""


@dataclass(frozen=True)
class Asked:
    """One query. ``vector`` (d,); None if no vector could be made, which ``reason`` and ``message`` explain.

    ``name``: shown to the user. ``source`` or ``key``: the picture, if the query is a picture. ``own``: ids that the
    query itself has in the index; these ids are excluded from the result.
    """

    name: str
    vector: NDArray[Any] | None
    source: Input | None = None
    key: str | None = None
    own: tuple[int, ...] = ()
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Query:
    """What to search for, or what to avoid.

    ``inputs``: picture files, folders, tables, archives. ``keys``: keys of pictures in the store. ``vectors``: arrays
    (d,) or (q, d), or .npy files of such arrays. ``labels``: class names; each stands for the mean vector of its class.
    ``texts``: descriptions, for networks with a text tower.
    """

    inputs: Paths = ()
    keys: Sequence[str] = ()
    vectors: Sequence[str | os.PathLike[str] | NDArray[Any]] = ()
    labels: Sequence[str] = ()
    texts: Sequence[str] = ()

    def __bool__(self) -> bool:
        return any(len(each) for each in (self.inputs, self.keys, self.vectors, self.labels, self.texts))


class Queries:
    """Make query vectors for one index from the fields of Query.

    ``metric`` and ``dimension``: those of the index. ``embedder``, ``store`` and ``texts`` are functions that are
    called only if needed. ``texts`` takes texts and returns their vectors.
    """

    def __init__(
        self,
        metric: Metric,
        dimension: int,
        embedder: Callable[[], Embedder],
        store: Callable[[], FeatureStore],
        texts: Callable[[Sequence[str]], NDArray[np.float32]],
        **options: Any,
    ) -> None:
        self._metric, self._dimension = metric, dimension
        self._embedder, self._store, self._texts, self._options = embedder, store, texts, options

    def each(self, wanted: Query) -> Iterator[Asked]:
        """Yield all ``wanted`` queries, in constant memory.

        Raises UsageError for an unknown key or label, or unusable vectors.
        """
        if wanted.keys:
            yield from self._keys(wanted.keys)
        for number, vectors in enumerate(wanted.vectors):
            yield from self._vectors(vectors, number)
        for label in wanted.labels:
            yield self._class_mean(label)
        if wanted.texts:
            for text, vector in zip(wanted.texts, self._texts(wanted.texts), strict=True):
                yield Asked(text, vector)
        if wanted.inputs:
            yield from self._pictures(wanted.inputs)

    def mixture(self, more: Query, less: Query, weight: float) -> Asked:
        """Return one query that is similar to everything in ``more`` and dissimilar to everything in ``less``.

        The vector is m + weight (m - l), with m and l the mean vectors of ``more`` and ``less``; for the metric cosine,
        vectors are scaled to length 1 before the mean is taken. This is Rocchio's relevance feedback (J. Rocchio in: G.
        Salton, The SMART Retrieval System, 1971). Pictures given by key are excluded from the result. If a picture is
        unreadable, the query has no vector.
        """
        sums: list[NDArray[np.float64]] = []
        names: list[str] = []
        own: list[int] = []
        for sign, wanted in (("", more), ("less ", less)):
            total, count = np.zeros(self._dimension), 0
            for asked in self.each(wanted):
                if asked.vector is None:
                    return Asked(asked.name, None, asked.source, reason=asked.reason, message=asked.message)
                total += self._prepared(asked.vector)
                count += 1
                own += asked.own
                if count <= _NAMED:
                    names.append(sign + asked.name)
            if count > _NAMED:
                names.append(f"{sign}{count - _NAMED:,} more")
            sums.append(total / max(1, count))
        middle, away = sums
        vector = middle + weight * (middle - away) if less else middle
        return Asked(" + ".join(names).replace("+ less", "-"), vector.astype(np.float32), own=tuple(own))

    def _prepared(self, vector: NDArray[Any]) -> NDArray[np.float32]:
        from featstore.indexes.blocks import prepare

        prepared: NDArray[np.float32] = prepare(np.asarray(vector)[None], self._metric)[0]
        return prepared

    def _keys(self, keys: Sequence[str]) -> Iterator[Asked]:
        store = self._store()
        rows = store.index_of(keys)
        own = store.ids[rows].tolist()
        vectors = (vector for block in store.blocks(rows) for vector in block)
        for key, number, vector in zip(keys, own, vectors, strict=True):
            yield Asked(key, vector, key=key, own=(number,))

    def _vectors(self, given: str | os.PathLike[str] | NDArray[Any], number: int) -> Iterator[Asked]:
        array = given if isinstance(given, np.ndarray) else read_array(given)
        name = f"vectors {number}" if isinstance(given, np.ndarray) else os.fspath(given)
        rows = array if array.ndim != 1 else array[None]
        if rows.ndim != 2 or rows.shape[1] != self._dimension or array.dtype.kind not in "fiu":
            raise UsageError(
                f"{name}: holds {array.dtype} of the shape {array.shape}, where numbers of the shape (q, "
                f"{self._dimension}) or ({self._dimension},) are needed; make them with the same backbone"
            )
        for place, vector in enumerate(rows):
            if not np.isfinite(vector).all():
                raise UsageError(f"{name}: row {place} holds NaN or infinity; leave it out")
            yield Asked(name if array.ndim == 1 else f"{name}[{place}]", np.asarray(vector))

    def _class_mean(self, label: str) -> Asked:
        from featstore.indexes.blocks import prepared_blocks

        store = self._store()
        rows = np.flatnonzero(store.labels == composed(label))
        if not len(rows):
            there = sorted({str(value) for value in store.labels if value is not None}, key=natural)
            some = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
            raise UsageError(
                f"{store.path}: no picture has the label {label!r}; there are: {some or 'none'}{did_you_mean(label, there)}"
            )
        total = np.zeros(self._dimension)
        for _, block in prepared_blocks(store.stream(rows), self._metric):
            total += block.sum(axis=0, dtype=np.float64)
        return Asked(f"the middle of {label} ({counted(len(rows), 'picture')})", (total / len(rows)).astype(np.float32))

    def _pictures(self, paths: Paths) -> Iterator[Asked]:
        for part in self._embedder().blocks(inputs_of(paths), **self._options):
            vectors = iter(part.vectors)
            for at, one in enumerate(part.inputs):
                if at in part.failures:
                    reason, message = part.failures[at]
                    yield Asked(one.name, None, one, reason=reason, message=message)
                else:
                    yield Asked(one.name, next(vectors), one)


def batches(asked: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    """Yield lists of up to ``size`` of the queries ``asked``."""
    remaining = iter(asked)
    while part := list(islice(remaining, size)):
        yield part
