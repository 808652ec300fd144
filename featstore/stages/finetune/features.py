"""Extract the features of a source of pictures before fine-tuning or a comparison."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from featstore.errors import UsageError
from featstore.stages.extract import extract
from featstore.stages.finetune.events import Event, Teller
from featstore.store import FeatureStore
from featstore.store.as_source import is_store
from featstore.text import printable

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.stages.extract import ExtractReport


class Extraction(Protocol):
    """The options with which the features of pictures are extracted, named as in ``extract``."""

    @property
    def backbone(self) -> str | Backbone | None: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def root(self) -> str | os.PathLike[str] | None: ...
    @property
    def device(self) -> str: ...
    @property
    def workers(self) -> int | None: ...
    @property
    def batch(self) -> int: ...


def extract_features(
    source: str | os.PathLike[str], place: Path, options: Extraction, tell: Teller, stop: threading.Event
) -> ExtractReport | None:
    """Extract the features of ``source`` into the store ``place``; return None, without work, if ``source`` is a store.

    Raises UsageError if ``size`` is given for a store, or if ``place`` holds pictures of another source too; the errors
    of ``extract``.
    """
    if is_store(source):
        if options.size is not None:
            raise UsageError(f"{os.fspath(source)}: is a store, whose pictures have their size; leave size out")
        return None
    report = extract(
        source,
        place,
        progress=lambda value: tell(Event(progress=replace(value, note=value.note or "extracting"))),
        stop=stop,
        backbone=options.backbone,
        weights=options.weights,
        size=options.size,
        root=options.root,
        device=options.device,
        workers=options.workers,
        batch=options.batch,
    )
    tell(Event(done=True))
    if not report.stopped:
        sources = FeatureStore.open(place)._plan.sources()
        if len(sources) > 1:
            raise UsageError(
                f"{place}: holds pictures of {len(sources)} sources ({', '.join(map(printable, sources))}), from an "
                "earlier run with the same --out; remove this store, or name another --out"
            )
    return report
