"""Search an index for the nearest neighbours of pictures or other queries."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.artifacts import open_index, origin_of_index, staleness
from featstore.columns import column
from featstore.embed.embedder import CHUNK, EmbedKeywords, EmbedOptions, Input
from featstore.errors import UsageError
from featstore.stages.queries import Asked, Queries, Query, batches
from featstore.store import FeatureStore
from featstore.store.features import require_same
from featstore.store.origin import Origin
from featstore.store.region_views import numbered
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.indexes import FeatureIndex


_SHOWN_QUERIES, _SHOWN_NEIGHBOURS = 10, 20
"""Largest number of queries, and of neighbours per query, in the display of a report in a notebook."""


@dataclass(frozen=True)
class Neighbour:
    """A picture found in the index. ``score``: cosine or inner product; under the metric "l2" the squared distance."""

    key: str
    id: int
    score: float
    label: str | None


@dataclass(frozen=True)
class QueryResult:
    """A query's neighbours, best first, or the reason why there are no neighbours.

    ``source`` or ``key``: the query picture, if the query was a picture.
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
        """Return the query's neighbours, or the reason why there are none, as JSON types."""
        if self.reason:
            return {"query": self.name, "reason": self.reason, "message": self.message}
        return {"query": self.name, "neighbours": [dict(found.__dict__) for found in self.neighbours]}


@dataclass(frozen=True)
class SearchReport:
    """The neighbours of each query.

    ``notes``: warnings for the user, for example that the store has grown since the index was made. ``store``: the
    store of the index, if it was found. ``kept``: number of rows that meet the condition ``where``.
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
        """Number of queries for which no vector could be made."""
        return sum(bool(query.reason) for query in self.queries)

    def to_dict(self) -> dict[str, Any]:
        """Return the search results as JSON types."""
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
    by: str | None = None,
    **embedding: Unpack[EmbedKeywords],
) -> SearchReport:
    """Return the ``k`` nearest pictures of ``index`` to each of ``inputs``: picture files, folders, tables, archives.

    ``like``: more queries, by key, vector, class or text. ``combine``: make one query from all queries. ``less``:
    queries that the combined query avoids, with the strength ``less_weight`` (see Queries.mixture). A picture given by
    key is excluded from its own neighbours. ``where``: a condition that the results must meet (featstore.where); if few
    rows meet the condition, these rows are compared one by one, with the store's vectors. ``by`` "parent": return only
    the best region of each picture, and no region of a picture given by key.

    Pictures go through the backbone, weights and preprocessing that the index was made with; without pictures no
    network is loaded. ``embedding``: the fields of EmbedOptions. An unreadable query gives a QueryResult with a reason.
    If the store is found, the notes say whether the store has changed since the index was made; keys, classes and
    ``where`` need the store. Raises UsageError for invalid options, IdentityError if the pictures' features do not
    match the index, DamagedError for a damaged file.
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(column(inputs, "pictures"))
    more = like or Query()
    more = dataclasses.replace(more, inputs=[*paths, *more.inputs])
    if not more:
        raise UsageError("there is nothing to look up; name pictures, a folder, or a key, vector, class or text")
    if k < 1:
        raise UsageError("k has to be at least 1")
    if not 0 < less_weight < float("inf"):
        raise UsageError(f"the weight is {less_weight}; it has to be more than 0")
    how, what = EmbedOptions(**embedding), os.fspath(index)
    opened = open_index(index)
    for vectors in (*more.vectors, *(less.vectors if less else [])):
        require_same(
            None if opened.identity is None else opened.identity.to_dict(), vectors, "the index", opened.fingerprint
        )
    origin = origin_of_index(opened, what)
    store = origin.find_store(Path(os.path.abspath(index)).parent)

    def the_store() -> FeatureStore:
        if store is None:
            raise UsageError(f"the store {origin.store} is not there any more: keys, classes and filters need it")
        return store

    if by not in (None, "parent"):
        raise UsageError(f"neighbours are joined by parent, not by {by!r}")
    needed = where is not None or by is not None
    finder = Finder(opened, the_store() if needed else None, where, by_parent=by is not None)
    pictures = [*more.inputs, *(less.inputs if less else [])]
    makes = Queries(
        opened.metric,
        opened.dimension,
        lambda: how.open(origin, what, pictures),
        the_store,
        lambda texts: _vectors_of_texts(texts, origin, what, how),
        batch=how.batch,
        workers=how.workers,
    )
    asked = iter([makes.mixture(more, less or Query(), less_weight)]) if combine or less else makes.each(more)
    queries = [query for part in batches(asked, CHUNK) for query in finder.look_up(part, k)]
    if store is None:
        notes = [f"the store {origin.store} is not there any more: whether the index is up to date is not known"]
    else:
        notes = [note for note in [staleness(opened, store, index)] if note]
    from featstore.indexes.growth import standing

    info = opened.info()
    stands = standing(info, os.path.getsize(index))
    if stands.holds is False:
        notes.append(stands.text)
    return SearchReport(
        what, str(opened.metric), len(opened), info["recall"], queries, notes + finder.notes, store, where, finder.kept
    )


def _vectors_of_texts(texts: Sequence[str], origin: Origin, what: str, how: EmbedOptions) -> NDArray[np.float32]:
    from featstore.embed.texts import embed_texts, open_backbone_with_text

    return embed_texts(open_backbone_with_text(origin, what, weights=how.weights, backbone=how.backbone), texts)


class Finder:
    """Searches an index, but only the rows of ``store`` that meet the condition ``where`` (None: all rows).

    ``by_parent``: keep only the best region of each picture, see ``search``. ``kept``: number of rows that meet the
    condition; ``notes``: likely reasons if no row meets the condition. Raises UsageError for an invalid condition.
    """

    def __init__(
        self,
        index: FeatureIndex,
        store: FeatureStore | None = None,
        where: str | None = None,
        *,
        by_parent: bool = False,
    ) -> None:
        self._index, self._store = index, store
        self._parents = _Parents(store) if store is not None and by_parent else None
        self._rows: NDArray[np.int64] | None = None
        self.kept: int | None = None
        self.notes: list[str] = []
        if store is not None and where is not None:
            from featstore.where import absent_values, rows_where

            # Rows that were added to the store after the index was made cannot be found.
            self._rows = np.flatnonzero(rows_where(store, where) & np.isin(store.ids, index.ids))
            self.kept = len(self._rows)
            self.notes = [] if self.kept else absent_values(store, where)

    def look_up(self, asked: Sequence[Asked], k: int) -> list[QueryResult]:
        """Return the ``k`` neighbours of each of the queries ``asked``; all queries are searched in one batch."""
        good = [one for one in asked if one.vector is not None]
        found: Iterator[list[Neighbour]] = iter(())
        if good:
            vectors = np.stack([np.asarray(one.vector) for one in good])
            # Fetch k neighbours plus the number of the query's own ids, because these ids are left out below.
            depth, most = k + max(len(one.own) for one in good), len(self._index)
            while True:
                scores, ids = self._search(vectors, depth)
                whole = depth >= most or bool((ids < 0).any(axis=1).all())
                for place, one in enumerate(good):
                    out = self._excluded(ids[place], one.own)
                    order = np.argsort(out, kind="stable")
                    scores[place], ids[place] = scores[place][order], np.where(out, -1, ids[place])[order]
                if self._parents is None or whole or (ids[:, k - 1] >= 0).all():
                    break
                depth = min(2 * depth, most)
            found = iter(_neighbours(self._index, scores[:, :k], ids[:, :k]))
        return [
            QueryResult(one.name, [], one.reason, one.message, one.source, one.key)
            if one.vector is None
            else QueryResult(one.name, next(found), source=one.source, key=one.key)
            for one in asked
        ]

    def _excluded(self, ids: NDArray[np.int64], own: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return a mask of the found ``ids`` (best first) that marks the ids to leave out of the result.

        The query's ``own`` ids are left out. With ``by_parent``, all regions of the query's picture are left out too,
        and only the best region of each other picture is kept.
        """
        out = np.isin(ids, own)
        if self._parents is not None:
            codes = self._parents.of(ids)
            first = np.zeros(len(ids), bool)
            first[np.unique(codes, return_index=True)[1]] = True
            out |= ~first | np.isin(codes, self._parents.of(np.array(own, np.int64)))
        return out

    def _search(self, vectors: NDArray[Any], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self._rows is None or self._store is None:
            return self._index.search(vectors, k)
        ids = self._store.ids[self._rows]
        if not len(ids) or not self._index._scans(len(ids)):
            return self._index.search(vectors, k, allowed_ids=ids)
        from featstore.indexes import exact_search

        scores, places = exact_search(self._store.stream(self._rows), vectors, k, metric=self._index.metric)
        return scores, np.where(places >= 0, ids[places], -1)


class _Parents:
    """Maps ids of regions to integer codes of their pictures: regions of one picture have the same code."""

    def __init__(self, store: FeatureStore) -> None:
        self._ids, self._codes = store.ids, numbered(store.parents)[1]

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the code of the picture of each id; an id that is not in the store gets a unique negative code."""
        codes = -2 - ids
        at = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        known = self._ids[at] == ids if len(self._ids) else np.zeros(len(ids), bool)
        codes[known] = self._codes[at[known]]
        return codes


def neighbours(index: FeatureIndex, vectors: Any, k: int, **options: Any) -> list[list[Neighbour]]:
    """Return the neighbours of ``vectors`` (q, d), best first; ``options`` are passed to FeatureIndex.search."""
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
