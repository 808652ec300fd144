"""Extraction: the stage from a source of pictures to a store, and its supervision.

Nothing heavy is imported until a name is used: the supervisor of an extraction needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    import threading

    from featstore.embed.progress import Progress
    from featstore.sources import Source
    from featstore.stages.extract.options import ExtractKeywords, ExtractOptions
    from featstore.stages.extract.report import ExtractReport
    from featstore.stages.extract.stage import extract_in_process
    from featstore.stages.extract.supervisor import extract_supervised
    from featstore.stages.extract.together import extract_together

_HOMES = {
    "ExtractKeywords": "options",
    "ExtractOptions": "options",
    "ExtractReport": "report",
    "extract_in_process": "stage",
    "extract_supervised": "supervisor",
    "extract_together": "together",
}

__all__ = [
    "ExtractKeywords",
    "ExtractOptions",
    "ExtractReport",
    "extract",
    "extract_in_process",
    "extract_supervised",
    "extract_together",
]


def extract(
    source: str | os.PathLike[str] | Source,
    store: str | os.PathLike[str],
    *,
    supervised: bool = True,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    **options: Unpack[ExtractKeywords],
) -> ExtractReport:
    """Extract what ``store`` does not have yet of ``source``, and account for every picture.

    Can be killed at any moment and called again; several processes, on several hosts, may call it for one store at
    once. ``options``: the fields of ExtractOptions, which says what each means. ``supervised``: work in a child process,
    so that a picture that kills, stalls or exhausts its decoder becomes a failure instead of ending the run; False is
    needed for a loaded backbone or an opened source. ``progress`` is called after each batch. ``stop``: when set, finish
    the current batches, keep the journal, and return with ``stopped``.

    Raises UsageError for an invalid request, IdentityError if the store has other features, FeatstoreError and OSError
    if something failed; pictures that were extracted until then are kept.
    """
    from dataclasses import fields

    from featstore.errors import UsageError
    from featstore.stages.extract.options import ExtractOptions
    from featstore.text import check_keywords

    check_keywords("extract", options, (field.name for field in fields(ExtractOptions)))
    asked = ExtractOptions(**options)
    if not supervised:
        from featstore.stages.extract.stage import extract_in_process

        return extract_in_process(source, store, asked, progress=progress, stop=stop)
    if not isinstance(source, str | os.PathLike):
        raise UsageError(
            "an opened source cannot be passed to the supervised process; name it, or pass supervised=False"
        )
    from featstore.stages.extract.supervisor import extract_supervised

    return extract_supervised(source, store, asked, progress=progress, stop=stop)


if not TYPE_CHECKING:
    # Type checkers use the imports above, and report other names as errors.

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
