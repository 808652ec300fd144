"""The stage from an index, and pictures or other queries, to their nearest neighbours."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.artifacts import open_index, origin_of_index, staleness
from featstore.embed.embedder import CHUNK, Input, open_embedder
from featstore.errors import UsageError
from featstore.stages.queries import Asked, Queries, Query, batches
from featstore.store import FeatureStore
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.indexes import FeatureIndex


_SHOWN_QUERIES, _SHOWN_NEIGHBOURS = 10, 20
"""Queries, and neighbours of each, that a notebook shows."""


@dataclass(frozen=True)
class Neighbour:
    """A picture of the index: ``score`` is its cosine or inner product, or its squared distance under "l2"."""

    key: str
    id: int
    score: float
    label: str | None


@dataclass(frozen=True)
class QueryResult:
    """What was looked up: its neighbours, best first, or why there are none.

    ``source`` or ``key``: the picture, where it was one.
    """

    name: str
    neighbours: list[Neighbour]
    reason: str = ""
    message: str = ""
    source: Input | None = None
    key: str | None = None

    def __repr__(self) -> str:
        best = f", best: {self.neighbours[0].key!r}" if self.neighbours else ""
        told = self.reason or f"{counted(len(self.neighbours), 'neighbour')}{best}"
        return f"<QueryResult {self.name!r}: {told}>"

    def to_dict(self) -> dict[str, Any]:
        """Return the query as JSON."""
        if self.reason:
            return {"query": self.name, "reason": self.reason, "message": self.message}
        return {"query": self.name, "neighbours": [dict(found.__dict__) for found in self.neighbours]}


@dataclass(frozen=True)
class SearchReport:
    """The neighbours of each query. ``notes``: what a reader has to know, such as a store that has grown since.

    ``store``: the one that the index was made of, where it was found. ``kept``: rows that the filter ``where`` leaves.
    """

    index: str
    metric: str
    rows: int
    recall: dict[str, Any]
    queries: list[QueryResult]
    notes: list[str]
    store: FeatureStore | None
    where: str | None = None
    kept: int | None = None

    def __repr__(self) -> str:
        queries = counted(len(self.queries), "query", "queries")
        return f"<SearchReport {self.index!r}: {queries} among {counted(self.rows, 'picture')}, {self.metric}>"

    def _repr_html_(self) -> str:
        from featstore.notebook import figure, gallery
        from featstore.store.pictures import Pictures
        from featstore.store.thumbnails import thumbnail_of

        pictures, rows = Pictures(self.store), []
        for query in self.queries[:_SHOWN_QUERIES]:
            figures = []
            for found in query.neighbours[:_SHOWN_NEIGHBOURS]:
                thumb = thumbnail_of(pictures, found.key)
                caption = f"{self.metric} {found.score:.3f} {found.key}"
                figures.append(figure(thumb.uri, caption, found.label, tiny=thumb.tiny, missing=thumb.note))
            why = f": {query.message or query.reason}" if query.reason else ""
            rows.append((f"{query.name}{why}", figures))
        more = len(self.queries) - _SHOWN_QUERIES
        notes = [f"{more:,} more queries are not shown"] if more > 0 else []
        return gallery(repr(self), rows, [*notes, *self.notes])

    @property
    def failures(self) -> int:
        """How many queries could not be read."""
        return sum(bool(query.reason) for query in self.queries)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "index": self.index,
            "metric": self.metric,
            "rows": self.rows,
            "recall": self.recall,
            "where": self.where,
            "kept": self.kept,
            "queries": [query.to_dict() for query in self.queries],
            "failures": self.failures,
            "notes": self.notes,
        }


def search(
    index: str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    *,
    like: Query | None = None,
    less: Query | None = None,
    less_weight: float = defaults.LESS_WEIGHT,
    combine: bool = False,
    where: str | None = None,
    k: int = defaults.NEIGHBOURS,
    weights: str | None = None,
    backbone: Backbone | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    batch: int = defaults.BATCH,
    workers: int | None = None,
) -> SearchReport:
    """Return the ``k`` nearest pictures of ``index`` to each of ``inputs``: picture files, folders, tables, archives.

    ``like``: more to look up, by key, vector or class. ``combine``: one query of all together; with ``less``, one that
    also keeps away from those by ``less_weight`` (see Queries.mixture). A picture that is looked up by its key is not
    among its own neighbours. ``where``: only rows that it chooses (featstore.where) are found; where these are few
    they are compared one by one with the store's vectors.

    Pictures go through the very backbone, weights and preprocessing that the index was made of; without pictures
    none is loaded. A query that cannot be read is a QueryResult with a reason. Where the store is found, the notes say
    whether it has changed since; keys, classes and ``where`` need it. Raises UsageError, IdentityError, DamagedError.
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    more = like or Query()
    more = dataclasses.replace(more, inputs=[*paths, *more.inputs])
    if not more:
        raise UsageError("there is nothing to look up; name pictures, a folder, or a key, vector or class")
    if k < 1:
        raise UsageError("k has to be at least 1")
    if not 0 < less_weight < float("inf"):
        raise UsageError(f"the weight is {less_weight}; it has to be more than 0")
    what = os.fspath(index)
    opened = open_index(index)
    origin = origin_of_index(opened, what)
    store = origin.find_store(Path(os.path.abspath(index)).parent)

    def the_store() -> FeatureStore:
        if store is None:
            raise UsageError(f"the store {origin.store} is not there any more: keys, classes and filters need it")
        return store

    finder = Finder(opened, None if where is None else the_store(), where)
    pictures = [*more.inputs, *(less.inputs if less else [])]
    makes = Queries(
        opened.metric,
        opened.dimension,
        lambda: open_embedder(
            origin, what, weights=weights, backbone=backbone, engine=engine, device=device, inputs=pictures
        ),
        the_store,
        batch=batch,
        workers=workers,
    )
    asked = iter([makes.mixture(more, less or Query(), less_weight)]) if combine or less else makes.each(more)
    queries = [query for part in batches(asked, CHUNK) for query in finder.look_up(part, k)]
    if store is None:
        notes = [f"the store {origin.store} is not there any more: whether the index is up to date is not known"]
    else:
        notes = [note for note in [staleness(opened, store)] if note]
    from featstore.indexes.growth import standing

    info = opened.info()
    stands = standing(info, os.path.getsize(index))
    if stands.holds is False:
        notes.append(stands.text)
    return SearchReport(
        what, str(opened.metric), len(opened), info["recall"], queries, notes, store, where, finder.kept
    )


class Finder:
    """An index, and the rows of its ``store`` among which ``where`` has it look (None: all).

    ``kept``: how many these are. UsageError for what is no condition on the store's columns.
    """

    def __init__(self, index: FeatureIndex, store: FeatureStore | None = None, where: str | None = None) -> None:
        self._index, self._store = index, store
        self._rows: NDArray[np.int64] | None = None
        self.kept: int | None = None
        if store is not None and where is not None:
            from featstore.where import rows_where

            # What the index lacks is not found, however it is searched.
            self._rows = np.flatnonzero(rows_where(store, where) & np.isin(store.ids, index.ids))
            self.kept = len(self._rows)

    def look_up(self, asked: Sequence[Asked], k: int) -> list[QueryResult]:
        """Return the ``k`` neighbours of each of ``asked``, in one batch."""
        good = [one for one in asked if one.vector is not None]
        found: Iterator[list[Neighbour]] = iter(())
        if good:
            # Whatever is to be left out takes at most its own number of places.
            depth = k + max(len(one.own) for one in good)
            scores, ids = self._search(np.stack([np.asarray(one.vector) for one in good]), depth)
            for place, one in enumerate(good):
                if one.own:
                    own = np.isin(ids[place], one.own)
                    order = np.argsort(own, kind="stable")
                    scores[place], ids[place] = scores[place][order], np.where(own, -1, ids[place])[order]
            found = iter(_neighbours(self._index, scores[:, :k], ids[:, :k]))
        return [
            QueryResult(one.name, [], one.reason, one.message, one.source, one.key)
            if one.vector is None
            else QueryResult(one.name, next(found), source=one.source, key=one.key)
            for one in asked
        ]

    def _search(self, vectors: NDArray[Any], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self._rows is None or self._store is None:
            return self._index.search(vectors, k)
        ids = self._store.ids[self._rows]
        if not len(ids) or not self._index.scans(len(ids)):
            return self._index.search(vectors, k, allowed_ids=ids)
        from featstore.indexes import exact_search

        scores, places = exact_search(self._store.stream(self._rows), vectors, k, metric=self._index.metric)
        return scores, np.where(places >= 0, ids[places], -1)


def neighbours(index: FeatureIndex, vectors: Any, k: int, **options: Any) -> list[list[Neighbour]]:
    """Return the neighbours of ``vectors`` (q, d), best first; ``options`` as FeatureIndex.search takes them."""
    return _neighbours(index, *index.search(vectors, k, **options))


def _neighbours(index: FeatureIndex, scores: NDArray[np.float32], ids: NDArray[np.int64]) -> list[list[Neighbour]]:
    keys = [key.decode("utf-8", "surrogateescape") for key in index.keys_of(ids)]
    labels = index.labels_of(ids)
    found: list[list[Neighbour]] = []
    for query in range(len(ids)):
        first = query * ids.shape[1]
        found.append(
            [
                Neighbour(keys[first + at], number, score, labels[first + at])
                for at, (number, score) in enumerate(zip(ids[query].tolist(), scores[query].tolist(), strict=True))
                if number >= 0
            ]
        )
    return found
