"""Rendering: one template environment in which everything is escaped unless it is markup made here."""

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
"""Pictures side by side at most."""
_UNBROKEN = 12
"""Characters at the end of a file name that stay on one line."""


def write_page(path: str | os.PathLike[str], template: str, values: Mapping[str, Any]) -> None:
    """Render ``template`` with ``values`` to the file ``path``, whole or not at all. Raises OSError."""
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
    """Names of files may hold newlines and bytes that are no UTF-8; neither may reach a page as it is."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def breakable(name: str) -> Markup:
    """Return a file name as markup that a line may break after a slash, hyphen or underscore, but not in its ending."""
    text = shown(name)
    # The ending begins with a word, where one begins within its length.
    least, stop = max(0, len(text) - _UNBROKEN), max(text.rfind("."), text.rfind("/"))
    start = next(
        (one.end() for one in re.finditer(r"[/_. -]", text) if one.end() >= least and one.start() < stop), least
    )
    head = Markup("<wbr>").join(re.split(r"(?<=[/_-])", text[:start]))
    return head + Markup('<span class="ending">{}</span>').format(text[start:])


def balanced(count: int) -> int:
    """Return the columns of a sheet of ``count`` pictures whose rows are about equally full: of 10 pictures 5, not 7."""
    rows = math.ceil(count / _COLUMNS)
    return _COLUMNS if rows < 2 else math.ceil(count / rows)


def percent(value: float | None) -> str:
    """Return a share as text, such as 98.7 %; with more digits where one would make nearly all of it all, or nothing."""
    if value is None or value != value:
        return "–"  # noqa: RUF001
    digits = next((count for count in range(1, 5) if 0 < round(100 * value, count) < 100), 1)
    return f"{100 * value:.{digits}f} %"


def number(value: float | int | None) -> str:
    """Return a number as text: integers with separators, others with four significant digits."""
    if value is None or value != value:
        return "–"  # noqa: RUF001
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def seconds(value: float) -> str:
    """Return a duration as text, such as 1.4 s or 2 min 05 s."""
    return f"{value:.1f} s" if value < 60 else f"{int(value // 60)} min {int(value % 60):02d} s"
