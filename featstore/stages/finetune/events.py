"""Events of a fine-tuning run, to show to the user; this module imports no large library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from featstore.embed.progress import Progress


@dataclass(frozen=True)
class Event:
    """Something to show: a line of ``text``, the ``progress`` of a step, or that a step is ``done``."""

    text: str = ""
    progress: Progress | None = None
    done: bool = False


Teller = Callable[[Event], None]
"""Function that shows an Event."""
