"""Extract into several stores at once, each with its own backbone, and decode each picture once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.stages.extract.options import ExtractOptions
from featstore.stages.extract.report import ExtractReport
from featstore.stages.extract.totals import Totals
from featstore.stages.extract.views import Run, runs_with_views
from featstore.store.view_stores import view_stores
from featstore.text import counted


def runs_of(
    stores: Sequence[str | os.PathLike[str]],
    backbones: Sequence[object],
    weights: Sequence[str],
    options: ExtractOptions,
) -> list[Run]:
    """Return (store, options) for each store. ``backbones`` and ``weights``: one value for each store, or empty.

    Raises UsageError if the number of values is neither 0 nor the number of stores, or if a store is named twice.
    """
    for name, values in (("backbone", backbones), ("weights", weights)):
        if len(values) not in (0, len(stores)):
            raise UsageError(
                f"{len(stores)} {'store is' if len(stores) == 1 else 'stores are'} named and {name} is given "
                f"{len(values)} times; give it once for each store, in their order"
            )
    if len({os.path.realpath(store) for store in stores}) < len(stores):
        raise UsageError("a store is named twice; name one for each backbone")
    runs = []
    for at, store in enumerate(stores):
        given = {"backbone": backbones[at]} if backbones else {}
        given |= {"weights": weights[at]} if weights else {}
        runs.append((store, replace(options, **given)))  # type: ignore[arg-type]
    return runs


def extract_together(
    source: str | os.PathLike[str],
    stores: Sequence[str | os.PathLike[str]],
    *,
    backbones: Sequence[object] = (),
    weights: Sequence[str] = (),
    supervised: bool = True,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    views: int | None = None,
    augment: str | None = None,
    augment_seed: int | None = None,
    **options: object,
) -> list[ExtractReport]:
    """Extract into several ``stores`` at once, decode each picture once, and return a report for each store.

    ``backbones`` and ``weights``: one for each store, in the order of ``stores``; empty for existing stores. The other
    parameters are as in ``extract``. Each store equals the result of a separate ``extract``, bit for bit.

    ``views``: number of views of one store, with the plain pictures as view 0. The views 1, 2, ... are the stores
    STORE.views/1, ..., which take rows and labels from STORE; their reports follow that of STORE. ``augment`` and
    ``augment_seed``: policy and seed of the augmented views, see featstore.decode.augment.
    """
    runs = runs_of(stores, backbones, weights, ExtractOptions(**options))  # type: ignore[arg-type]
    if views is not None:
        runs = _with_views(runs, views, augment, augment_seed)
    elif augment is not None or augment_seed is not None:
        raise UsageError("augment: is for augmented views; say how many views with --views N")
    if supervised:
        from featstore.stages.extract.supervisor import supervise

        reports = supervise(source, runs, progress=progress, stop=stop, views=views is not None)
        return reports if views is not None else _noted(reports)
    from featstore.stages.extract.jobs import Job, extract_jobs

    totals, lock = Totals(progress, [os.fspath(store) for store, _ in runs]), threading.Lock()

    def tell(number: int, value: Progress) -> None:
        with lock:
            totals.tell(number, value)

    jobs = []
    for number, (store, each) in enumerate(runs):
        first = stores[0] if views is not None and number else None
        jobs.append(Job(first or source, Path(store), each, partial(tell, number), after_first=first is not None))
    reports = extract_jobs(jobs, stop=stop)
    return reports if views is not None else _noted(reports)


def _noted(reports: list[ExtractReport]) -> list[ExtractReport]:
    """Add a note to the report of each changed store whose augmented views were not updated."""
    for report in reports:
        count = len(view_stores(report.store))
        if count and (report.new_vectors or report.change.removed):
            report.notes.append(
                f"{counted(count, 'augmented view was', 'augmented views were')} not extended; add --views {count + 1}"
            )
    return reports


def _with_views(runs: list[Run], views: int, augment: str | None, seed: int | None) -> list[Run]:
    """Return the run of one store, followed by the runs of its views. Raises UsageError for several stores."""
    if len(runs) > 1:
        raise UsageError("views: are made for one store at a time; name one store")
    store, options = runs[0]
    return runs_with_views(store, options, views, augment, seed)
