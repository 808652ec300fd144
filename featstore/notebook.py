"""Shared HTML parts of the _repr_html_ methods, for notebooks. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from featstore.text import shown

_CELL = "text-align:left;padding:2px 12px 2px 0"
_FIGURE = (
    "display:inline-block;width:112px;margin:0 10px 10px 0;vertical-align:top;font-size:12px;overflow-wrap:anywhere"
)


def text(value: Any) -> str:
    """Return ``value`` as escaped text on one line."""
    return escape(shown(str(value)))


def table(title: str, rows: Iterable[Sequence[Any]], header: Sequence[str] = (), notes: Iterable[str] = ()) -> str:
    """Return a titled HTML table of ``rows``, with ``notes`` below the table."""
    lines = [f"<p><b>{text(title)}</b></p><table>"]
    if header:
        lines.append(f"<tr>{''.join(f'<th style={_CELL!r}>{text(name)}</th>' for name in header)}</tr>")
    lines += [f"<tr>{''.join(f'<td style={_CELL!r}>{text(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return "\n".join([*lines, "</table>", *(f"<p>note: {text(note)}</p>" for note in notes)])


def gallery(title: str, rows: Iterable[tuple[str, Iterable[str]]], notes: Iterable[str] = ()) -> str:
    """Return the HTML of a gallery with a title, and ``notes`` below it.

    Each of ``rows`` is a heading and the HTML of its figures.
    """
    lines = [f"<p><b>{text(title)}</b></p>"]
    lines += [f"<p>{text(heading)}</p><div>{''.join(figures)}</div>" for heading, figures in rows]
    return "\n".join([*lines, *(f"<p>note: {text(note)}</p>" for note in notes)])


def figure(uri: str | None, caption: str, label: str | None = None, *, tiny: bool = False, missing: str = "") -> str:
    """Return the HTML of a picture with a bold ``label`` and a caption.

    ``uri``: the picture as a "data:" address; None shows the text ``missing`` instead. ``tiny``: enlarge the picture
    without smoothing.
    """
    shape = "image-rendering:pixelated;" * tiny + "width:112px;height:112px;object-fit:cover"
    picture = f"<img style='{shape}' src='{escape(uri)}'>" if uri else text(missing)
    bold = "" if label is None else f"<b>{text(label)}</b><br>"
    return f"<div style='{_FIGURE}'>{picture}<br>{bold}{text(caption)}</div>"
