"""The stage from an index and pictures to their nearest neighbours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore import defaults
from featstore.embedding import Embedded, Input, inputs_of, open_embedder
from featstore.errors import UsageError
from featstore.indexing import open_index, staleness
from featstore.origin import origin_of_index
from featstore.store import FeatureStore

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.index import FeatureIndex


@dataclass(frozen=True)
class Neighbour:
    """A picture of the index: ``score`` is its cosine or inner product, or its squared distance under "l2"."""

    key: str
    id: int
    score: float
    label: str | None


@dataclass(frozen=True)
class Query:
    """A picture that was looked up: its neighbours, best first, or why it could not be read."""

    source: Input
    neighbours: list[Neighbour]
    reason: str = ""
    message: str = ""

    @property
    def name(self) -> str:
        """The picture's path or key, as it was given."""
        return self.source.name

    def to_dict(self) -> dict[str, Any]:
        """Return the query as JSON."""
        if self.reason:
            return {"query": self.name, "reason": self.reason, "message": self.message}
        return {"query": self.name, "neighbours": [dict(found.__dict__) for found in self.neighbours]}


@dataclass(frozen=True)
class SearchReport:
    """The neighbours of each query. ``notes``: what a reader has to know, such as a store that has grown since.

    ``store``: the one that the index was made of, where it was found.
    """

    index: str
    metric: str
    rows: int
    recall: dict[str, Any]
    queries: list[Query]
    notes: list[str]
    store: FeatureStore | None

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
            "queries": [query.to_dict() for query in self.queries],
            "failures": self.failures,
            "notes": self.notes,
        }


def search(
    index: str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    k: int = defaults.NEIGHBOURS,
    weights: str | None = None,
    backbone: Backbone | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    batch: int = defaults.BATCH,
    workers: int | None = None,
) -> SearchReport:
    """Return the ``k`` nearest pictures of ``index`` to each of ``inputs``: picture files, folders, tables, archives.

    Pictures go through the very backbone, weights and preprocessing that the index was made of. A query that cannot
    be read is a Query with a reason. Where the store is found, the notes say whether it has changed since. Raises
    UsageError, IdentityError, DamagedError.
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not paths:
        raise UsageError("there is nothing to look up; name pictures or a folder")
    if k < 1:
        raise UsageError("k has to be at least 1")
    what = os.fspath(index)
    opened = open_index(index)
    origin = origin_of_index(opened, what)
    embedder = open_embedder(origin, what, weights=weights, backbone=backbone, engine=engine, device=device)
    store = origin.find_store(Path(os.path.abspath(index)).parent)
    queries: list[Query] = []
    for part in embedder.blocks(inputs_of(paths), batch=batch, workers=workers):
        queries += _looked_up(opened, part, k)
    if store is None:
        notes = [f"the store {origin.store} is not there any more: whether the index is up to date is not known"]
    else:
        notes = [note for note in [staleness(opened, store)] if note]
    info = opened.info()
    return SearchReport(what, str(opened.metric), len(opened), info["recall"], queries, notes, store)


def neighbours(index: FeatureIndex, vectors: Any, k: int, **options: Any) -> list[list[Neighbour]]:
    """Return the neighbours of ``vectors`` (q, d), best first; ``options`` as FeatureIndex.search takes them."""
    scores, ids = index.search(vectors, k, **options)
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


def _looked_up(index: FeatureIndex, part: Embedded, k: int) -> list[Query]:
    found = iter(neighbours(index, part.vectors, k) if len(part.ok) else [])
    return [
        Query(one, [], *part.failures[at]) if at in part.failures else Query(one, next(found))
        for at, one in enumerate(part.inputs)
    ]
