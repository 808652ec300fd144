"""The stage that turns a source of pictures into a store: plan, claim, extract, commit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.embed.pipeline import Timings
from featstore.embed.progress import Progress
from featstore.embed.recipe import Network, Request
from featstore.embed.units import Run
from featstore.errors import UsageError
from featstore.sources import Source, open_source
from featstore.stages.extract.advice import advice
from featstore.stages.extract.notes import classes_of, notes_of
from featstore.stages.extract.report import ExtractReport
from featstore.store import FeatureStore, Identity
from featstore.store.claims import Claims
from featstore.store.manifest import LARGEST_UNIT, Manifest
from featstore.store.plan import Plan, source_name
from featstore.store.planner import Change, Planner
from featstore.store.writer import has_rows, open_for_writing, sweep

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.decode import Decoder
    from featstore.embed.loader import Watch


def extract(
    source: str | os.PathLike[str] | Source,
    store: str | os.PathLike[str],
    *,
    backbone: str | Backbone | None = None,
    weights: str | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    precision: str = "auto",
    decode: str = defaults.DECODE,
    dtype: str | None = None,
    batch: int = defaults.BATCH,
    workers: int | None = None,
    units: tuple[int, int] = (0, 1),
    unit_rows: int | None = None,
    retry_failures: bool = False,
    rehash: bool = False,
    max_pixels: int = defaults.MAX_PIXELS,
    max_bytes: int = defaults.MAX_FILE_BYTES,
    max_memory: int = defaults.MAX_MEMORY,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    decoder: Decoder | None = None,
    watch: Watch | None = None,
) -> ExtractReport:
    """Extract what ``store`` does not have yet of ``source``, and account for every picture.

    The network is loaded where there is something to extract, or where only it tells whether its features are the
    store's.

    Can be killed at any moment and called again; several processes, on several hosts, may call it for one store at
    once. ``backbone``, ``weights`` and ``dtype``: by default the store's, for a new one defaults.BACKBONE with its default
    weights, and defaults.DTYPE. ``units=(i, n)``: do only the units whose number is i modulo n. ``workers``: threads that decode, by default
    one a core; defaults.READERS more read ahead. ``retry_failures``: try earlier failures again. ``rehash``: let content, not size and time, tell what
    changed. ``precision``: of the arithmetic, see open_engine. ``decode``: "exact", equal to torchvision's transforms
    bit for bit, or "fast", within one level of them (bicubic: two). Both are by default ("auto") the store's, where
    there is one.
    ``max_memory``: bytes that decoding one picture may take; pictures whose pixels might take more are
    failures. ``stop``: when set, finish the batches at hand, keep the journal, and return with ``stopped``.
    ``decoder``, which stands in for the decoder of the class that ``decode`` names, and ``watch`` are for the
    supervised extraction (supervising.py).

    Raises UsageError for what was asked wrongly, IdentityError where the store has other features, FeatstoreError
    and OSError for what failed; what was extracted until then is kept.
    """
    timings = Timings()
    timings.add(startup=0.0 if watch is None else time.monotonic() - watch.began)
    started = time.perf_counter() - timings.startup
    check_numbers(units, batch, workers, unit_rows)
    path = Path(store)
    request = Request(backbone, weights, engine, device, precision, decode, dtype)
    with timings.during("startup"):
        source = open_source(source) if isinstance(source, str | os.PathLike) else source
        there = _manifest_there(path)
        # The network takes seconds to load: where words tell that it is the store's, only pending pictures need it.
        network = None if there is not None and request.agrees(there) else request.load(there, path)
        identity, weights_name = _features(network, there)
        open_for_writing(path, identity, weights_name, unit_rows)
    # What has no other name is closing.
    with timings.during("closing"):
        with Claims(path) as claims:
            with timings.during("planning"):
                planning = {"retry_failures": retry_failures, "rehash": rehash, "max_bytes": max_bytes}
                change, run = _plan(path, identity, source, claims, units, timings, **planning)
                run.batch, run.progress, run.stop = batch, progress, stop or run.stop
            if watch is not None:
                watch.begin(run.roots, change.to_dict(), run.reasons)
                run.in_hand = watch.in_hand
            if run.todo:
                with timings.during("startup"):
                    network = network or request.load(there, path)
                    run.manifest.identity.check(network.identity, str(path))
                run.go(
                    network,
                    workers or os.cpu_count() or 1,
                    max_pixels=min(max_pixels, max(1, max_memory // defaults.BYTES_OF_PIXEL)),
                    max_bytes=max_bytes,
                    decode=decoder,
                )
        report = _report(run, source, change, units)
    if run.todo and network is not None:
        made = network.engine.provenance(), network.identity.decoder
        report.advice = advice(timings, *made, workers or os.cpu_count() or 1)
    report.seconds, report.timings = round(time.perf_counter() - started, 3), timings.to_dict()
    return report


def check_numbers(units: Any, batch: int | None, workers: int | None, unit_rows: int | None) -> None:
    """Raise UsageError unless ``units`` is a share (i, n), and batch, workers and unit_rows are at least 1 or None."""
    if not (isinstance(units, tuple) and len(units) == 2 and 0 <= units[0] < units[1]):
        raise UsageError(f"units: {units!r} is not i/n with 0 <= i < n")
    if any(number is not None and number < 1 for number in (batch, workers, unit_rows)):
        raise UsageError("batch, workers and unit_rows have to be at least 1")
    if unit_rows is not None and unit_rows > LARGEST_UNIT:
        raise UsageError(f"unit_rows: {unit_rows:,} is more than {LARGEST_UNIT:,}")


def extract_nothing(
    source: Source,
    store: Path,
    request: Request,
    *,
    units: tuple[int, int],
    unit_rows: int | None = None,
    retry_failures: bool = False,
    max_bytes: int = defaults.MAX_FILE_BYTES,
) -> tuple[Change | None, ExtractReport | None]:
    """Compare ``source`` with a store that has the features asked for, and return the change of its plan.

    The second value is the report where no picture is left to extract, which takes neither a network nor a process;
    (None, None) where only a network can tell whether these are the store's features. The parameters and errors are
    those of ``extract``, which does the rest.
    """
    started, timings = time.perf_counter(), Timings()
    there = _manifest_there(store)
    if there is None or not request.agrees(there):
        return None, None
    with timings.during("planning"):
        open_for_writing(store, there.identity, there.weights_name, unit_rows)
        with Claims(store) as claims:
            planning = {"retry_failures": retry_failures, "rehash": False, "max_bytes": max_bytes}
            change, run = _plan(store, there.identity, source, claims, units, timings, **planning)
    if run.todo:
        return change, None
    with timings.during("closing"):
        report = _report(run, source, change, units)
    report.seconds, report.timings = round(time.perf_counter() - started, 3), timings.to_dict()
    return change, report


def _plan(
    store: Path,
    identity: Identity,
    source: Source,
    claims: Claims,
    units: tuple[int, int],
    timings: Timings,
    **planning: Any,
) -> tuple[Change, Run]:
    """Bring the plan up to date, and return what that changed and the run over the units of our share."""
    claims.join()
    sweep(store, claims)
    # Read again: a compaction may have ended just before we joined.
    manifest = Manifest.read(store)
    manifest.identity.check(identity, str(store))
    change = plan_source(store, manifest, source, **planning)
    plan = Plan(store, manifest.epoch)
    run = Run(store, manifest, plan, _roots(plan, source), claims, timings)
    run.take([unit for unit in plan.units() if unit.number % units[1] == units[0]])
    run.shared = len(plan.units())
    return change, run


def _manifest_there(store: Path) -> Manifest | None:
    """Return what a store with rows says of itself: a run goes on as the store began, on whatever device."""
    try:
        return Manifest.read(store) if has_rows(store) else None
    except UsageError:
        return None


def _features(network: Network | None, there: Manifest | None) -> tuple[Identity, str]:
    """Return identity and weights' name of the features that are asked for: the network's, else the store's."""
    if network is not None:
        return network.identity, network.backbone.weights
    if there is None:
        raise ValueError("neither a network nor a store")
    return there.identity, there.weights_name


def _report(run: Run, source: Source, change: Change, units: tuple[int, int]) -> ExtractReport:
    """Return what ``run`` did and what the store holds now; seconds, timings and advice are the caller's."""
    opened = FeatureStore(run.store)
    counts, (classes, splits) = opened.counts, classes_of(opened._tables)
    return ExtractReport(
        str(run.store),
        change,
        counts.images,
        counts.vectors,
        counts.failures,
        counts.pending,
        run.done - run.failed,
        run.failed,
        source.ignored,
        run.stopped,
        reasons=dict(run.reasons.most_common()),
        layout=source.layout,
        read_as=source.read_as,
        classes=classes,
        splits=splits,
        notes=notes_of(run, source, units),
    )


def plan_source(
    store: Path, manifest: Manifest, source: Source, *, retry_failures: bool, rehash: bool, max_bytes: int
) -> Change:
    """Bring the store's plan up to date with ``source``."""
    reader = FeatureStore(store) if retry_failures or rehash else None

    def hashes(chunk: Any, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return _hashes(source, chunk, rows, max_bytes)

    planner = Planner(
        store,
        manifest.epoch,
        manifest.unit_rows,
        hasher=hashes if rehash else None,
        known=reader._content if reader is not None and rehash else None,
    )
    failed = reader.failed_ids() if reader is not None and retry_failures else np.empty(0, np.int64)
    return planner.update(source, (lambda plan: failed[~plan.is_retired(failed)]) if len(failed) else None)


def _hashes(source: Source, chunk: Any, rows: NDArray[np.int64], max_bytes: int) -> NDArray[np.uint8]:
    """Return (n, 32) uint8: SHA-256 of the pictures as they are now, zeros where they cannot be read."""
    import hashlib

    from featstore.sources.base import ReadFailure
    from featstore.sources.reading import read_picture

    sums = np.zeros((len(rows), 32), np.uint8)
    for at, row in enumerate(rows.tolist()):
        location = chunk.keys[row] if chunk.locations is None else chunk.locations[row]
        try:
            picture = read_picture(
                source.root, location, int(chunk.offsets[row]), int(chunk.sizes[row]), limit=max_bytes
            )
        except ReadFailure:
            continue
        sums[at] = np.frombuffer(hashlib.sha256(picture.data).digest(), np.uint8)
    return sums


def _roots(plan: Plan, source: Source) -> list[Path]:
    """Return by segment of the plan where its pictures are: ours may have moved, others are where they were."""
    ours = source_name(source.describe())
    return [
        source.root if source_name(segment.source) == ours else Path(str(segment.source.get("root", "/")))
        for segment in plan.segments
    ]
