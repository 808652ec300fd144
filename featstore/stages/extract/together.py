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


def runs_of(
    stores: Sequence[str | os.PathLike[str]],
    backbones: Sequence[object],
    weights: Sequence[str],
    options: ExtractOptions,
) -> list[tuple[str | os.PathLike[str], ExtractOptions]]:
    """Return (store, options) for each store. ``backbones`` and ``weights``: a value for each store, or empty.

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
    **options: object,
) -> list[ExtractReport]:
    """Extract into several ``stores`` at once, decode each picture once, and return a report for each store.

    ``backbones`` and ``weights``: one for each store, in the order of ``stores``; empty for existing stores. The other
    parameters are as in ``extract``. Each store equals the result of a separate ``extract``, bit for bit.
    """
    runs = runs_of(stores, backbones, weights, ExtractOptions(**options))  # type: ignore[arg-type]
    if supervised:
        from featstore.stages.extract.supervisor import supervise

        return supervise(source, runs, progress=progress, stop=stop)
    from featstore.stages.extract.jobs import Job, extract_jobs

    totals, lock = Totals(progress, [os.fspath(store) for store, _ in runs]), threading.Lock()

    def tell(number: int, value: Progress) -> None:
        with lock:
            totals.tell(number, value)

    jobs = [Job(source, Path(store), each, partial(tell, number)) for number, (store, each) in enumerate(runs)]
    return extract_jobs(jobs, stop=stop)
