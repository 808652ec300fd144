"""Fine-tune a backbone with an attached head on the labelled pictures of a store."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.files import atomic
from featstore.stages.extract import extract
from featstore.stages.finetune.options import HEADS, FinetuneKeywords, FinetuneOptions
from featstore.stages.finetune.places import Places
from featstore.stages.finetune.report import FinetuneReport, compare_heads
from featstore.stages.train import TrainReport, train
from featstore.store import FeatureStore
from featstore.store.as_source import is_store
from featstore.store.splitting import equal_content
from featstore.text import check_keywords, counted

if TYPE_CHECKING:
    from featstore.stages.finetune.tuning import Run


@dataclass(frozen=True)
class Event:
    """Something to show during fine-tuning: a line of ``text``, or the ``progress`` of a step, or that a step is done."""

    text: str = ""
    progress: Progress | None = None
    done: bool = False


Teller = Callable[[Event], None]


def finetune(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: Teller | None = None,
    stop: threading.Event | None = None,
    **options: Unpack[FinetuneKeywords],
) -> FinetuneReport:
    """Fine-tune a network with an attached head on labelled pictures, write the model to ``out``, and evaluate it.

    ``source``: a store, or anything that ``extract`` reads, whose features then go into ``out``.features. ``options``: the
    fields of FinetuneOptions, which are described there. The head starts as the head that ``train`` finds on the stored
    features (linear probing, then fine-tuning: Kumar et al., arXiv 2202.10054). The frozen layers run once for each
    view, into ``out``.cache, if that saves time and fits on the disk. ``progress`` is called with Events. ``stop``: when
    this event is set, the run ends after the current epoch or batch, and returns a report with ``stopped``; the same
    call with ``resume`` continues it, with bit-identical weights on a CPU.

    Raises UsageError: wrong options, no labels, one class, a model or unfinished run at ``out``, a layer that does not
    exist; FeatstoreError: pictures that can no longer be read, a full disk; DataError: a loss that is not finite, with
    the epoch and step; DamagedError, OSError. Finished epochs are kept.
    """
    check_keywords("finetune", options, FinetuneKeywords.__annotations__)
    asked, places, tell = FinetuneOptions(**options), Places.of(out), progress or _silent
    places.check(asked)
    with atomic.only_writer(places.model, "model"):
        if asked.force:
            places.clear_run()
        store = _store_of(source, places, asked, tell, stop or threading.Event())
        if store is None:
            return FinetuneReport.interrupted(places.model, os.fspath(source), asked.epochs)
        from featstore.stages.finetune.tuning import start

        atomic.make_directory(places.run)
        run = start(store, places, asked, _head(store, places, asked), tell, stop or threading.Event())
        return run.report() if run.train() is None else _finished(run)


def _silent(_: Event) -> None:
    pass


def _store_of(
    source: str | os.PathLike[str], places: Places, options: FinetuneOptions, tell: Teller, stop: threading.Event
) -> Path | None:
    """Return the store to tune on, extracted from ``source`` if that is no store; None if ``stop`` was set meanwhile."""
    if is_store(source):
        if options.size is not None:
            raise UsageError(f"{os.fspath(source)}: is a store, whose pictures have its own size; leave size out")
        return Path(source)
    named = [*([options.freeze_to] if options.freeze_to else []), *(layer for layer, _ in options.unfreeze)]
    _require_layers(options.backbone, named)
    report = extract(
        source,
        places.features,
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
    return None if report.stopped else places.features
