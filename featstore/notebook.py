"""HTML for notebooks: what _repr_html_ methods share. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from featstore.sources.base import shown

if TYPE_CHECKING:
    from featstore.stages.search import SearchReport

QUERIES, NEIGHBOURS = 10, 20
"""Queries, and neighbours of each, that a notebook shows."""
_CELL = "text-align:left;padding:2px 12px 2px 0"
_FIGURE = (
    "display:inline-block;width:112px;margin:0 10px 10px 0;vertical-align:top;font-size:12px;overflow-wrap:anywhere"
)


def text(value: Any) -> str:
    """Return ``value`` as escaped text on one line."""
    return escape(shown(str(value)))


def table(title: str, rows: Iterable[Sequence[Any]], header: Sequence[str] = (), notes: Iterable[str] = ()) -> str:
    """Return a titled table of ``rows``, with ``notes`` below it."""
    lines = [f"<p><b>{text(title)}</b></p><table>"]
    if header:
        lines.append(f"<tr>{''.join(f'<th style={_CELL!r}>{text(name)}</th>' for name in header)}</tr>")
    lines += [f"<tr>{''.join(f'<td style={_CELL!r}>{text(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return "\n".join([*lines, "</table>", *(f"<p>note: {text(note)}</p>" for note in notes)])


def search_results(report: SearchReport) -> str:
    """Return the queries of ``report`` with their neighbours as pictures, as far as these are where they were."""
    from featstore.pages.thumbnails import thumbnail_of
    from featstore.store.pictures import Pictures

    pictures = Pictures(report.store)
    lines = [f"<p><b>{text(repr(report))}</b></p>"]
    for query in report.queries[:QUERIES]:
        lines.append(
            f"<p>{text(query.name)}{': ' + text(query.message or query.reason) if query.reason else ''}</p><div>"
        )
        for found in query.neighbours[:NEIGHBOURS]:
            thumb = thumbnail_of(pictures, found.key)
            shape = "image-rendering:pixelated;" * thumb.tiny + "width:112px;height:112px;object-fit:cover"
            picture = f"<img style='{shape}' src='{escape(thumb.uri)}'>" if thumb.uri else text(thumb.note)
            label = "" if found.label is None else f"<b>{text(found.label)}</b><br>"
            lines.append(
                f"<div style='{_FIGURE}'>{picture}<br>{label}{text(report.metric)} {found.score:.3f}<br>{text(found.key)}</div>"
            )
        lines.append("</div>")
    if len(report.queries) > QUERIES:
        lines.append(f"<p>and {len(report.queries) - QUERIES:,} more queries</p>")
    return "\n".join([*lines, *(f"<p>note: {text(note)}</p>" for note in report.notes)])
