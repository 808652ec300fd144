"""Render pages from Jinja templates, which escape every value except markup made in this package."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from featstore.files import atomic
from featstore.pages.drawing import CURVE_COLOURS
from featstore.text import shown

_COLUMNS = 7
"""Largest number of pictures in one row of a page."""
_UNBROKEN = 12
"""Number of characters at the end of a file name that are not broken across lines."""


def write_page(path: str | os.PathLike[str], template: str, values: Mapping[str, Any]) -> None:
    """Render ``template`` with ``values`` to the file ``path``, atomically. Raises OSError if writing fails."""
    text = _environment().get_template(template).render(values)
    target = Path(path)
    atomic.make_directory(Path(os.path.abspath(target.parent)))
    atomic.write_bytes(target, text.encode())


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("featstore.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_one_line,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["curve_colours"] = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in CURVE_COLOURS]
    environment.filters.update(percent=percent, number=number, seconds=seconds, breakable=breakable, balanced=balanced)
    return environment


def _one_line(value: Any) -> Any:
    """Return a text as one printable line, because file names may contain newlines and invalid UTF-8.

    Other values are returned unchanged.
    """
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def breakable(name: str) -> Markup:
    """Return a file name as HTML that may break after slashes, hyphens and underscores, but not near its end."""
    text = shown(name)
    # The ending that is not broken has at most _UNBROKEN characters and, if possible, starts at the start of a word.
    least, stop = max(0, len(text) - _UNBROKEN), max(text.rfind("."), text.rfind("/"))
    start = next(
        (one.end() for one in re.finditer(r"[/_. -]", text) if one.end() >= least and one.start() < stop), least
    )
    head = Markup("<wbr>").join(re.split(r"(?<=[/_-])", text[:start]))
    return head + Markup('<span class="ending">{}</span>').format(text[start:])


def balanced(count: int) -> int:
    """Return the number of columns with which ``count`` pictures fill all rows evenly: 5, not 7, for 10 pictures."""
    rows = math.ceil(count / _COLUMNS)
    return _COLUMNS if rows < 2 else math.ceil(count / rows)


def percent(value: float | None) -> str:
    """Return a share as text, such as 98.7 %, with more digits if rounding would give 0 % or 100 %."""
    if value is None or value != value:
        return "–"  # noqa: RUF001
    digits = next((count for count in range(1, 5) if 0 < round(100 * value, count) < 100), 1)
    return f"{100 * value:.{digits}f} %"


def number(value: float | int | None) -> str:
    """Return a number as text: integers with thousands separators, others with four significant digits."""
    if value is None or value != value:
        return "–"  # noqa: RUF001
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def seconds(value: float) -> str:
    """Return a duration as text, such as 1.4 s or 2 min 05 s."""
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60):02d} s"
