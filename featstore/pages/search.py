"""The page of a search: each query picture with its neighbours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featstore.pages import parts
from featstore.pages.render import write_page
from featstore.store.pictures import Pictures, address_of, open_picture
from featstore.store.thumbnails import Thumbnail, thumbnail, thumbnail_of
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.stages.search import Neighbour, QueryResult, SearchReport

QUERIES = 200
"""Largest number of queries on a page; more would make the page too large to open."""
_SCORES = {"cosine": "cosine", "l2": "squared distance", "ip": "inner product"}


def write_search_page(
    report: SearchReport, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Write a page with each query of ``report`` and its neighbours to ``path``.

    ``root``: the present folder of the index's pictures, if they were moved or the store is missing. Returns the
    warnings of Pictures.notes() on pictures that were not found. Raises OSError if writing fails.
    """
    pictures = Pictures(report.store, root)
    shown = report.queries[:QUERIES]
    queries = [_query(query, pictures) for query in shown]
    notes = [*report.notes, *pictures.notes()]
    if len(shown) < len(report.queries):
        notes.append(f"the first {len(shown):,} of {len(report.queries):,} queries are shown")
    among = f"the {counted(report.rows, 'picture')}"
    if report.where is not None:
        among = f"those {report.kept:,} of the {counted(report.rows, 'picture')} where {report.where},"
    recall = report.recall
    measured = ""
    if recall.get("method") == "exact":
        measured = "; the search is exact"
    elif recall.get("value") is not None:
        measured = f"; recall@{recall['k']} {recall['value']:.3f}, measured on {counted(recall['queries'], 'held-out picture')}"
    write_page(
        path,
        "search.html",
        {
            **parts.footer([report.store] if report.store is not None else [], [report.index]),
            "title": f"Neighbours in {os.path.basename(report.index)}",
            "heading": "Nearest pictures" if len(shown) != 1 else f"Nearest to {_short(shown[0])}",
            "lead": f"Among {among} of {report.index}, by {_SCORES.get(report.metric, report.metric)}{measured}.",
            "notes": notes,
            "queries": queries,
            "score": _SCORES.get(report.metric, report.metric),
        },
    )
    return pictures.notes()


def _short(query: QueryResult) -> str:
    """Return the name of a query; if the query is a picture, its file name without folders."""
    return query.name if query.source is None and query.key is None else os.path.basename(query.name)


def _query(query: QueryResult, pictures: Pictures) -> dict[str, Any]:
    one, key = query.source, query.key
    if one is not None:
        address = address_of(one.root, one.location, one.offset)
        thumb = thumbnail(lambda: open_picture(one.root, one.location, one.offset, one.size), address)
    elif key is not None:
        thumb = thumbnail_of(pictures, key)
    else:
        thumb = Thumbnail(None, note="not a single picture")
    return {
        "name": query.name,
        "label": None,
        "reason": query.reason,
        "message": query.message,
        "thumb": thumb,
        "neighbours": neighbours_shown(query.neighbours, pictures),
    }


def neighbours_shown(neighbours: Sequence[Neighbour], pictures: Pictures) -> list[dict[str, Any]]:
    """Return the values of each neighbour for the HTML template."""
    return [
        {
            "key": found.key,
            "label": found.label,
            "score": f"{found.score:.3f}",
            "thumb": thumbnail_of(pictures, found.key),
        }
        for found in neighbours
    ]
