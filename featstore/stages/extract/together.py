"""Extract into several stores at once, each with a backbone of its own, and decode each picture once.

Every store has a run of its own in a thread: its plan, claims, batches and shards are those of a separate extraction, and
so are its features, bit for bit. The runs share the decoding only (featstore/embed/sharing.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.embed.progress import Progress
from featstore.errors import UsageError
from featstore.stages.extract.options import ExtractOptions
from featstore.stages.extract.report import ExtractReport
from featstore.stages.extract.stage import extract_in_process

if TYPE_CHECKING:
    from featstore.decode import Decoder
    from featstore.embed.loader import Watch
    from featstore.sources import Source


@dataclass(frozen=True)
class Job:
    """One run: the arguments of ``extract_in_process``."""

    source: str | os.PathLike[str] | Source
    store: str | os.PathLike[str]
    options: ExtractOptions
    progress: Callable[[Progress], None] | None = None
    watch: Watch | None = None


def runs_of(
    stores: Sequence[str | os.PathLike[str]],
    backbones: Sequence[object],
    weights: Sequence[str],
    options: ExtractOptions,
) -> list[tuple[str | os.PathLike[str], ExtractOptions]]:
    """Return (store, options) for each store; ``backbones`` and ``weights``: one for each store, or none.

    Raises UsageError for other numbers, or a store that is named twice.
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


def extract_jobs(
    jobs: Sequence[Job], *, stop: threading.Event | None = None, decoder: Decoder | None = None
) -> list[ExtractReport]:
    """Do all ``jobs`` at once in this process, and return their reports in order.

    If one fails, the others stop after the batches at hand and keep their journals, and the error is raised.
    """
    stop = stop or threading.Event()
    if len(jobs) == 1:
        job = jobs[0]
        return [
            extract_in_process(
                job.source, job.store, job.options, progress=job.progress, stop=stop, decoder=decoder, watch=job.watch
            )
        ]
    from featstore.embed.sharing import SharedDecoding

    shared = SharedDecoding(len(jobs))

    def run(number: int) -> ExtractReport:
        job = jobs[number]
        try:
            return extract_in_process(
                job.source,
                job.store,
                job.options,
                progress=job.progress,
                stop=stop,
                decoder=decoder,
                watch=job.watch,
                share=(shared, number),
            )
        except BaseException:
            stop.set()
            raise
        finally:
            shared.leave(number)

    with ThreadPoolExecutor(len(jobs), "featstore-run") as pool:
        running = [pool.submit(run, number) for number in range(len(jobs))]
        with contextlib.suppress(BaseException):
            for each in running:
                each.result()
    return [each.result() for each in running]


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
    """Extract into several ``stores`` at once, decode each picture once, and return a report for each.

    ``backbones`` and ``weights``: one for each store, in their order; none for stores that there are. Everything else as
    in ``extract``. Each store equals the result of its own ``extract``, bit for bit.
    """
    runs = runs_of(stores, backbones, weights, ExtractOptions(**options))  # type: ignore[arg-type]
    if supervised:
        from featstore.stages.extract.supervisor import supervise

        return supervise(source, runs, progress=progress, stop=stop)
    now: dict[int, Progress] = {}
    lock = threading.Lock()

    def tell(number: int, value: Progress) -> None:
        with lock:
            now[number] = value
            if progress is not None:
                done, total, failed = (
                    sum(getattr(each, n) for each in now.values()) for n in ("done", "total", "failed")
                )
                progress(Progress(done, total, failed, value.note))

    jobs = [Job(source, Path(store), each, partial(tell, number)) for number, (store, each) in enumerate(runs)]
    return extract_jobs(jobs, stop=stop)
