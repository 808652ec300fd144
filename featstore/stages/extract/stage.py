"""Turn a source of pictures into a store: update the plan (list of rows), reserve units of work, write shards."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from featstore.sources import Source
from featstore.stages.extract.advice import advice
from featstore.stages.extract.notes import classes_of, notes_of, unreached
from featstore.stages.extract.options import ExtractOptions
from featstore.stages.extract.report import ExtractReport
from featstore.stages.extract.views import plain_manifest
from featstore.store import FeatureStore, Identity
from featstore.store.as_source import StoreSource, follow_tables, take_tables
from featstore.store.claims import Claims
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan, source_name
from featstore.store.planner import Change, Planner
from featstore.store.rows import renamed
from featstore.store.writer import has_rows, open_for_writing, sweep

if TYPE_CHECKING:
    from featstore.decode import Decoder
    from featstore.embed.loader import Watch
    from featstore.embed.sharing import SharedDecoding


def extract_in_process(
    source: str | os.PathLike[str] | Source,
    store: str | os.PathLike[str],
    options: ExtractOptions | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    decoder: Decoder | None = None,
    watch: Watch | None = None,
    share: tuple[SharedDecoding, int] | None = None,
    planned: Callable[[], None] | None = None,
) -> ExtractReport:
    """Extract as ``extract`` does, but in this process and without supervision.

    The network is loaded only if pictures are pending, or if the options alone do not tell whether the store has the
    requested features. ``decoder``: replaces the decoder that ``options.decode`` names. ``watch``: reports to the
    supervisor (supervisor.py) which pictures are being processed. ``share``: the decoding that this run shares with
    other runs in this process, and the number of this run (jobs.py). ``planned``: called when the store's plan is
    written. Raises the errors of ``extract``.
    """
    options = options or ExtractOptions()
    timings = Timings()
    timings.add(startup=0.0 if watch is None else time.monotonic() - watch.began)
    started = time.perf_counter() - timings.startup
    path = Path(store)
    request = options.request
    loading = contextlib.nullcontext() if share is None else share[0].loading
    with timings.during("startup"), loading:
        source = options.open(source)
        there = _manifest_there(path)
        base = None if there is not None else plain_manifest(source, path, request.augmentation)
        # Loading the network takes seconds. If the options have the same names (of backbone, weights and so on) as
        # the store, do not load the network here: it is loaded later, and only if pictures are pending.
        network = None if there is not None and request.agrees(there) else _network(request, there or base, path, share)
        identity, weights_name = _features(network, there)
        open_for_writing(path, identity, weights_name, options.unit_rows or (base.unit_rows if base else None))
    # Inner ``timings.during`` blocks are recorded under their own names, the rest of this block's time as "closing".
    with timings.during("closing"):
        with Claims(path) as claims:
            with timings.during("planning"):
                change, run = _plan(path, identity, source, claims, options, timings)
                run.batch, run.progress, run.stop = options.batch, progress, stop or run.stop
            if planned is not None:
                planned()
            if watch is not None:
                watch.begin(run.roots, change.to_dict(), run.reasons)
                run.in_hand = watch.in_hand
            if run.todo:
                with timings.during("startup"):
                    with loading:
                        network = network or _network(request, there, path, share)
                    run.manifest.identity.check(network.identity, str(path))
                    cut = None if share is None else partial(share[0].cut, share[1])
                    if share is not None and decoder is None:
                        decoder = _joined(share, network)
                run.go(
                    network,
                    options.threads,
                    max_pixels=min(options.max_pixels, max(1, options.max_memory // defaults.BYTES_OF_PIXEL)),
                    max_bytes=options.max_bytes,
                    decode=decoder,
                    cut=cut,
                )
        report = _report(run, source, change, options.units)
    if run.todo and network is not None:
        made = network.engine.provenance(), network.identity.decoder
        report.advice = advice(timings, *made, options.threads)
    report.seconds, report.timings = round(time.perf_counter() - started, 3), timings.to_dict()
    return report


def extract_nothing(source: Source, store: Path, options: ExtractOptions) -> tuple[Change | None, ExtractReport | None]:
    """Update the plan of a store that has the requested features; return (how the plan changed, report).

    The report is None if pictures are left to extract; otherwise no network and no worker process is needed. Returns
    (None, None) if a network has to be loaded to find out whether the store has the requested features. Raises the
    errors of ``extract``.
    """
    started, timings = time.perf_counter(), Timings()
    there = _manifest_there(store)
    if there is None or not options.request.agrees(there):
        return None, None
    with timings.during("planning"):
        open_for_writing(store, there.identity, there.weights_name, options.unit_rows)
        with Claims(store) as claims:
            change, run = _plan(store, there.identity, source, claims, options, timings)
    if run.todo:
        return change, None
    with timings.during("closing"):
        report = _report(run, source, change, options.units)
    report.seconds, report.timings = round(time.perf_counter() - started, 3), timings.to_dict()
    return change, report


def _plan(
    store: Path,
    identity: Identity,
    source: Source,
    claims: Claims,
    options: ExtractOptions,
    timings: Timings,
) -> tuple[Change, Run]:
    """Update the store's plan (list of rows); return how it changed, and a Run over this process's units.

    A unit is a range of rows that is extracted as a whole.
    """
    claims.join()
    sweep(store, claims)
    # Read the manifest again: another process may have finished a compaction just before this process joined.
    manifest = Manifest.read(store)
    manifest.identity.check(identity, str(store))
    if isinstance(source, StoreSource):
        _take_labels(store, manifest, source, options.follow)
    change = plan_source(
        store,
        manifest,
        source,
        retry_failures=options.retry_failures,
        rehash=options.rehash,
        max_bytes=options.max_bytes,
    )
    plan = Plan(store, manifest.epoch)
    run = Run(store, manifest, plan, _roots(plan, source), claims, timings)
    index, count = options.units
    run.take([unit for unit in plan.units() if unit.number % count == index])
    run.shared = len(plan.units())
    return change, run


def _network(
    request: Request, known: Manifest | None, store: Path, share: tuple[SharedDecoding, int] | None
) -> Network:
    """Load the network of ``request``; views of one store share one network on the CPU, to save memory and time.

    ``known``: manifest whose identity the features must have; None for new features. Raises the errors of Request.load.
    """
    shared = share[0] if share is not None and share[0].views else None
    if shared is not None and shared.network is not None and known is not None:
        identity = known.identity
        same = replace(shared.network.identity, augment=identity.augment) == identity
        if same and request.augmentation in (None, identity.augment):
            return replace(shared.network, identity=identity)
    network = request.load(known, store)
    if shared is not None and not str(network.engine.provenance().get("device")).startswith("cuda"):
        from featstore.engines.turns import InTurn

        network = shared.network = replace(network, engine=InTurn(network.engine))
    return network


def _joined(share: tuple[SharedDecoding, int], network: Network) -> Decoder:
    """Return the decoder of a run that shares its decoding with other runs; ``share``: the shared decoding and the
    run's number.
    """
    from featstore.decode import Augment

    identity = network.identity
    augment = Augment.from_dict(identity.augment)
    return share[0].join(share[1], identity.decoder, network.backbone.preprocessing, augment)


def _take_labels(store: Path, manifest: Manifest, source: StoreSource, follow: bool) -> None:
    """Copy the labels, splits and metadata of a source that is a store; if ``follow``, refer to the source instead."""
    if manifest.store_id == source.store_id:
        raise UsageError(f"{store}: is the source itself; name another store for the new features")
    if follow:
        follow_tables(store, manifest, source)
    else:
        take_tables(store, manifest, source)


def _manifest_there(store: Path) -> Manifest | None:
    """Return the manifest of a store that has rows, otherwise None.

    The identity in the manifest describes the features of the store; a run must make features of the same identity.
    """
    try:
        return Manifest.read(store) if has_rows(store) else None
    except UsageError:
        return None


def _features(network: Network | None, there: Manifest | None) -> tuple[Identity, str]:
    """Return the identity of the features and the name of the weights, from ``network`` or, if that is None, a store.

    ``there``: the manifest of that store.
    """
    if network is not None:
        return network.identity, network.backbone.weights
    if there is None:
        raise ValueError("neither a network nor a store")
    return there.identity, there.weights_name


def _report(run: Run, source: Source, change: Change, units: tuple[int, int]) -> ExtractReport:
    """Return the report on ``run``, with the counts of the store; the caller adds seconds, timings and advice."""
    opened = FeatureStore(run.store)
    counts, (classes, splits) = opened.counts, classes_of(opened._tables)
    return ExtractReport(
        str(run.store),
        change,
        counts.images,
        counts.vectors,
        counts.failures,
        counts.pending,
        unreached(run, source),
        run.done - run.failed,
        run.failed,
        source.ignored,
        run.stopped,
        reasons=dict(run.reasons.most_common()),
        layout=source.layout,
        read_as=source.read_as,
        classes=classes,
        splits=splits,
        notes=notes_of(run, source, units) + (renamed(opened._tables.columns) if opened.has_regions else []),
    )


def plan_source(
    store: Path, manifest: Manifest, source: Source, *, retry_failures: bool, rehash: bool, max_bytes: int
) -> Change:
    """Update the store's plan so that it lists the pictures of ``source``; return how the plan changed."""
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
    """Return the current SHA-256 of each picture's bytes, (n, 32) uint8; zeros for pictures that cannot be read."""
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
    """Return the root folder of the pictures of each plan segment (a file with a part of the plan's rows).

    For segments that came from ``source``, this is the source's current root, otherwise the recorded root.
    """
    ours = source_name(source.describe())
    return [
        source.root if source_name(segment.source) == ours else Path(str(segment.source.get("root", "/")))
        for segment in plan.segments
    ]
