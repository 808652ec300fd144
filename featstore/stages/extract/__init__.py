"""Extraction: the stage from a source of pictures to a store, and the supervision of its worker process.

Modules are imported only when a name is used, because the supervising process needs no torch.
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
    """Extract the pictures of ``source`` that ``store`` does not have yet.

    Every picture gets a vector, or is recorded as a failure with its reason. The call can be interrupted or killed at
    any moment and then repeated; several processes, also on several hosts, may call it for one store at the same time.
    ``options``: the fields of ExtractOptions, which are described there. ``supervised``: work in a child process, so
    that a picture that kills or stalls its decoder, or needs too much memory, becomes a failure and does not end the
    run; a loaded backbone or an opened source requires ``supervised=False``. ``progress`` is called after each batch.
    ``stop``: when this event is set, the run finishes the current batches, keeps finished work in its journal, and
    returns a report with ``stopped``.

    Raises UsageError for an invalid request, IdentityError if the store has other features, FeatstoreError and OSError
    if something failed. Vectors that were extracted before the error are kept.
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
    # Hidden from type checkers, which use the imports above and report unknown names.

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
