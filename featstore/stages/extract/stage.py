"""The stage that turns a source of pictures into a store: plan, claim, extract, commit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.backbones import Backbone, backbone_name, known_weights, load_backbone
from featstore.decode import DECODER, Decoder, decoder_class, open_decoder
from featstore.embed.loader import Loader, Watch
from featstore.embed.progress import Progress
from featstore.embed.recipe import identity_of
from featstore.embed.units import Run
from featstore.engines import open_engine, to_go_on
from featstore.errors import IdentityError, UsageError
from featstore.sources import Source, open_source
from featstore.stages.extract.advice import advice
from featstore.stages.extract.notes import classes_of, notes_of
from featstore.stages.extract.report import ExtractReport
from featstore.store import FeatureStore
from featstore.store.claims import Claims
from featstore.store.manifest import LARGEST_UNIT, Manifest
from featstore.store.plan import Plan, source_name
from featstore.store.planner import Change, Planner
from featstore.store.writer import open_for_writing, sweep


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
    started = time.perf_counter()
    if not (isinstance(units, tuple) and len(units) == 2 and 0 <= units[0] < units[1]):
        raise UsageError(f"units: {units!r} is not i/n with 0 <= i < n")
    if batch < 1 or (workers is not None and workers < 1) or (unit_rows is not None and unit_rows < 1):
        raise UsageError("batch, workers and unit_rows have to be at least 1")
    if unit_rows is not None and unit_rows > LARGEST_UNIT:
        raise UsageError(f"unit_rows: {unit_rows:,} is more than {LARGEST_UNIT:,}")
    max_pixels = min(max_pixels, max(1, max_memory // defaults.BYTES_OF_PIXEL))
    path = Path(store)
    source = open_source(source) if isinstance(source, str | os.PathLike) else source
    found = _manifest_there(path)
    there = None if found is None else found.identity
    decoded_as = decoder_class(decode) if decode != "auto" else DECODER if there is None else there.decoder
    decoder = decoder or open_decoder(decoded_as)
    model = _model(backbone, weights, found, path) if backbone is None or isinstance(backbone, str) else backbone
    if precision == "auto" and there is not None:
        engine, precision = to_go_on(there.precision, engine)
    opened = open_engine(model, engine=engine, device=device, precision=precision)
    identity = identity_of(model, opened, dtype or (defaults.DTYPE if there is None else there.dtype), decoded_as)
    open_for_writing(path, identity, model.weights, unit_rows)
    with Claims(path) as claims:
        claims.join()
        sweep(path, claims)
        # Read again: a compaction may have ended just before we joined.
        manifest = Manifest.read(path)
        manifest.identity.check(identity, str(path))
        change = plan_source(path, manifest, source, retry_failures=retry_failures, rehash=rehash, max_bytes=max_bytes)
        plan = Plan(path, manifest.epoch)
        roots = _roots(plan, source)
        run = Run(path, manifest, plan, roots, opened, batch, progress, stop or threading.Event(), claims)
        run.take([unit for unit in plan.units() if unit.number % units[1] == units[0]])
        run.shared = len(plan.units())
        decoding = workers or os.cpu_count() or 1
        loader = Loader(
            model.preprocessing,
            run.root,
            run.timings,
            max_pixels=max_pixels,
            max_bytes=max_bytes,
            decode=decoder,
            in_hand=None if watch is None else watch.in_hand,
        )
        if watch is not None:
            watch.begin(run.roots, change.to_dict(), run.reasons)
            run.in_hand = watch.in_hand
        run.go(loader, decoding, model)
    opened_store = FeatureStore(path)
    counts, (classes, splits) = opened_store.counts, classes_of(opened_store.tables)
    return ExtractReport(
        str(path),
        change,
        counts.images,
        counts.vectors,
        counts.failures,
        counts.pending,
        run.done - run.failed,
        run.failed,
        source.ignored,
        run.stopped,
        round(time.perf_counter() - started, 3),
        dict(run.reasons.most_common()),
        run.timings.to_dict(),
        advice(run.timings, opened.provenance(), decoded_as, decoding),
        layout=source.layout,
        classes=classes,
        splits=splits,
        notes=notes_of(run, source, units),
    )


def _manifest_there(store: Path) -> Manifest | None:
    """Return what the store that is there says of itself: a run goes on as the store began, on whatever device."""
    try:
        return Manifest.read(store)
    except UsageError:
        return None


def _model(backbone: str | None, weights: str | None, there: Manifest | None, store: Path) -> Backbone:
    """Return the backbone that is asked for, or that of the store; nothing is loaded that the store would refuse."""
    if there is None:
        return load_backbone(backbone or defaults.BACKBONE, weights)
    name = there.identity.backbone
    if backbone is not None and backbone_name(backbone) != name:
        raise IdentityError(
            f"{store} has features of {name}, not {backbone}; leave --backbone out to go on with it, or name another store"
        )
    if weights is None and not known_weights(name, there.weights_name):
        raise UsageError(f"{store}: was made with the weights {there.weights_name}; name their file with --weights")
    return load_backbone(name, weights or there.weights_name)


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
        known=reader.content if reader is not None and rehash else None,
    )
    failed = reader.failed_ids() if reader is not None and retry_failures else np.empty(0, np.int64)
    return planner.update(source, (lambda plan: failed[~plan.is_retired(failed)]) if len(failed) else None)


def _hashes(source: Source, chunk: Any, rows: NDArray[np.int64], max_bytes: int) -> NDArray[np.uint8]:
    """Return (n, 32) uint8: SHA-256 of the pictures as they are now, zeros where they cannot be read."""
    import hashlib

    from featstore.sources.reading import ReadFailure, read_picture

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
