"""Several extractions in one process, each into its own store; each picture is decoded only once.

Each store has its own run in its own thread. Its plan (list of rows), units of work, batches, shards and features are
the same, bit for bit, as after a separate extraction. The runs share only the decoding (featstore/embed/sharing.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featstore.embed.progress import Progress
from featstore.stages.extract.options import ExtractOptions
from featstore.stages.extract.report import ExtractReport
from featstore.stages.extract.stage import extract_in_process

if TYPE_CHECKING:
    from featstore.decode import Decoder
    from featstore.embed.loader import Watch
    from featstore.sources import Source


@dataclass(frozen=True)
class Job:
    """One run: the arguments of ``extract_in_process``.

    ``after_first``: the source is the store of the first job, so this run begins when that store's plan is written.
    """

    source: str | os.PathLike[str] | Source
    store: str | os.PathLike[str]
    options: ExtractOptions
    progress: Callable[[Progress], None] | None = None
    watch: Watch | None = None
    after_first: bool = False


def extract_jobs(
    jobs: Sequence[Job], *, stop: threading.Event | None = None, decoder: Decoder | None = None
) -> list[ExtractReport]:
    """Run all ``jobs`` at the same time in this process, and return their reports in order.

    If a job fails, the other jobs stop after their current batches and keep their finished work, and the error is
    raised.
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

    shared, planned = SharedDecoding(len(jobs), views=jobs[-1].after_first), threading.Event()

    def run(number: int) -> ExtractReport:
        job = jobs[number]
        try:
            if job.after_first:
                planned.wait()
            return extract_in_process(
                job.source,
                job.store,
                job.options,
                progress=job.progress,
                stop=stop,
                decoder=decoder,
                watch=job.watch,
                share=(shared, number),
                planned=planned.set if number == 0 else None,
            )
        except BaseException:
            stop.set()
            raise
        finally:
            shared.leave(number)
            if number == 0:
                planned.set()

    with ThreadPoolExecutor(len(jobs), "featstore-run") as pool:
        running = [pool.submit(run, number) for number in range(len(jobs))]
        with contextlib.suppress(BaseException):
            for each in running:
                each.result()
    return [each.result() for each in running]
