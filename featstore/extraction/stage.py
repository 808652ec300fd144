"""The stage that turns a source of pictures into a store: plan, claim, extract, commit."""

from __future__ import annotations

import os
import platform
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.backbones import Backbone, load_backbone
from featstore.decode import DECODER
from featstore.decode import decode as reference_decode
from featstore.engines import Engine, open_engine
from featstore.errors import UsageError
from featstore.extraction import pipeline
from featstore.extraction.in_hand import InHand
from featstore.extraction.loading import Decoder, Loader, Watch, check_root
from featstore.extraction.pipeline import Batch, Done, Timings
from featstore.extraction.report import ExtractReport, Progress
from featstore.sources import Source, open_source
from featstore.store import FeatureStore, Identity, shards
from featstore.store.claims import Claims, Owner
from featstore.store.journal import Block
from featstore.store.manifest import Manifest
from featstore.store.plan import Plan, Unit, source_name
from featstore.store.planning import Change, Planner
from featstore.store.writing import UnitWriter, open_for_writing, sweep

POLL_SECONDS = 1.0


def extract(
    source: str | os.PathLike[str] | Source,
    store: str | os.PathLike[str],
    *,
    backbone: str | Backbone = defaults.BACKBONE,
    weights: str | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    precision: str = "auto",
    dtype: str = defaults.DTYPE,
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
    decode: Decoder = reference_decode,
    watch: Watch | None = None,
) -> ExtractReport:
    """Extract what ``store`` does not have yet of ``source``, and account for every picture.

    Can be killed at any moment and called again; several processes, on several hosts, may call it for one store at
    once. ``units=(i, n)``: do only the units whose number is i modulo n. ``workers``: decoding threads, by default
    one a core. ``retry_failures``: try earlier failures again. ``rehash``: let content, not size and time, tell what
    changed. ``precision``: of the arithmetic, see open_engine; by default that of the store, where there is one.
    ``max_memory``: bytes that decoding one picture may take; pictures whose pixels might take more are
    failures. ``stop``: when set, finish the batches at hand, keep the journal, and return with ``stopped``.
    ``decode`` and ``watch`` are for the supervised extraction (supervising.py).

    Raises UsageError for what was asked wrongly, IdentityError where the store has other features, FeatstoreError
    and OSError for what failed; what was extracted until then is kept.
    """
    started = time.perf_counter()
    if not (isinstance(units, tuple) and len(units) == 2 and 0 <= units[0] < units[1]):
        raise UsageError(f"units: {units!r} is not i/n with 0 <= i < n")
    if batch < 1 or (workers is not None and workers < 1) or (unit_rows is not None and unit_rows < 1):
        raise UsageError("batch, workers and unit_rows have to be at least 1")
    max_pixels = min(max_pixels, max(1, max_memory // defaults.BYTES_OF_PIXEL))
    path = Path(store)
    source = open_source(source) if isinstance(source, str | os.PathLike) else source
    model = load_backbone(backbone, weights) if isinstance(backbone, str) else backbone
    precision = precision if precision != "auto" else _precision_of(path, engine)
    opened = open_engine(model, engine=engine, device=device, precision=precision)
    open_for_writing(path, identity_of(model, opened, dtype), model.weights, unit_rows)
    with Claims(path) as claims:
        claims.join()
        sweep(path, claims)
        # Read again: a compaction may have ended just before we joined.
        manifest = Manifest.read(path)
        change = plan_source(path, manifest, source, retry_failures=retry_failures, rehash=rehash, max_bytes=max_bytes)
        plan = Plan(path, manifest.epoch)
        roots = _roots(plan, source)
        run = _Run(path, manifest, plan, roots, opened, batch, progress, stop or threading.Event(), claims)
        run.take([unit for unit in plan.units() if unit.number % units[1] == units[0]])
        loader = Loader(
            model.preprocessing,
            run.root,
            run.timings,
            max_pixels=max_pixels,
            max_bytes=max_bytes,
            decode=decode,
            in_hand=None if watch is None else watch.in_hand,
        )
        if watch is not None:
            watch.begin(run.roots, change.to_dict(), run.reasons)
            run.in_hand = watch.in_hand
        run.go(loader, workers or os.cpu_count() or 1)
    counts = FeatureStore(path).counts
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
        advice(run.timings),
    )


def _precision_of(store: Path, engine: str) -> str:
    """Return the precision of the store that is there: "auto" goes on as the store began, on whatever device."""
    try:
        precision = Manifest.read(store).identity.precision
    except UsageError:
        return "auto"
    return precision if precision in ("fp32", "bf16", "fp16") and not engine.endswith("int8") else "auto"


def extract_units(
    store: Path, numbers: Sequence[int], roots: list[Path], backbone: Backbone, engine: Engine, claims: Claims
) -> tuple[int, int]:
    """Extract the pending units ``numbers``, nothing else, and return the new vectors and failures: what repair needs.

    ``roots``: by segment of the plan, where its pictures are.
    """
    manifest = Manifest.read(store)
    plan = Plan(store, manifest.epoch)
    run = _Run(store, manifest, plan, roots, engine, defaults.BATCH, None, threading.Event(), claims)
    run.take([unit for unit in plan.units() if unit.number in numbers])
    loader = Loader(
        backbone.preprocessing,
        run.root,
        run.timings,
        max_pixels=defaults.MAX_PIXELS,
        max_bytes=defaults.MAX_FILE_BYTES,
        decode=reference_decode,
    )
    run.go(loader, os.cpu_count() or 1)
    return run.done - run.failed, run.failed


def identity_of(backbone: Backbone, engine: Engine, dtype: str) -> Identity:
    """Return the identity of the features that ``engine`` makes of ``backbone``."""
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype: {dtype!r} is not float32 or float16")
    return Identity(
        backbone.name,
        backbone.layer,
        backbone.dimension,
        backbone.weights_digest,
        backbone.preprocessing.to_dict(),
        DECODER,
        engine.precision,
        dtype,
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


class _Run:
    """One run over the pending units; its state is what progress and the report tell."""

    def __init__(
        self,
        store: Path,
        manifest: Manifest,
        plan: Plan,
        roots: list[Path],
        engine: Engine,
        batch: int,
        progress: Callable[[Progress], None] | None,
        stop: threading.Event,
        claims: Claims,
    ) -> None:
        self.claims = claims
        self.store, self.manifest, self.engine, self.batch = store, manifest, engine, batch
        self.progress, self.stop = progress, stop
        self.plan, self.roots = plan, roots
        self.timings, self.reasons = Timings(), Counter[str]()
        self.done = self.failed = 0
        self.stopped = False
        self.in_hand: InHand | None = None
        self.open: dict[int, UnitWriter] = {}
        self.todo: list[Unit] = []
        self.total = 0

    def take(self, units: Sequence[Unit]) -> None:
        """Put on the list those of ``units`` that have no shard and whose pictures' folder is there."""
        there = [
            check_root(root, str(segment.source.get("kind")))
            for root, segment in zip(self.roots, self.plan.segments, strict=True)
        ]
        self.todo = [
            unit for unit in units if not shards.shard_path(self.store, unit.number).exists() and there[unit.segment]
        ]
        self.total = sum(map(len, self.todo))

    def root(self, segment: int) -> Path:
        """Return where the pictures of a segment lie."""
        return self.roots[segment]

    def go(self, loader: Loader, threads: int) -> None:
        """Extract all units of our share, waiting for those that others hold."""
        if not self.todo:
            return
        try:
            pipeline.run(
                self._batches(),
                loader,
                self.engine,
                self._write,
                dtype=self.manifest.identity.numpy_dtype,
                threads=threads,
                ahead=defaults.BATCHES_AHEAD,
                timings=self.timings,
            )
        finally:
            for writer in self.open.values():
                writer.close()
            self._tick(owed=False)

    def _batches(self) -> Iterator[Batch | None]:
        todo = self.todo
        while todo:
            held: list[tuple[Unit, Owner]] = []
            for unit in todo:
                if self.stop.is_set():
                    self.stopped = True
                    return
                taken = self.claims.take(unit.number)
                if isinstance(taken, Owner):
                    held.append((unit, taken))
                elif shards.shard_path(self.store, unit.number).exists():
                    self.claims.finish(unit.number)
                    self._advance(len(unit), 0, made=False)
                else:
                    writer = UnitWriter(self.store, self.manifest, self.plan, unit, taken, self._provenance())
                    self.open[unit.number] = writer
                    self._advance(writer.next_row, 0, made=False)
                    yield from self._cut(writer)
            todo = [unit for unit, _ in held if not shards.shard_path(self.store, unit.number).exists()]
            self._advance(sum(len(unit) for unit, _ in held if unit not in todo), 0, made=False)
            if todo:
                # What we hold must not wait in the pipeline while we wait for others.
                yield None
                self._tell(f"waiting for {len(todo)} units held by {held[0][1]}")
                self.stop.wait(POLL_SECONDS)

    def _cut(self, writer: UnitWriter) -> Iterator[Batch]:
        n = len(writer.unit)
        start = writer.next_row
        while True:
            if self.stop.is_set() and start < n:
                self.stopped = True
                return
            stop = min(start + self.batch, n)
            yield Batch(writer, start, stop, stop == n)
            if stop == n:
                return
            start = stop

    def _write(self, done: Done) -> None:
        writer: UnitWriter = done.batch.target
        if done.batch.stop > done.batch.start:
            writer.append(Block(done.batch.start, done.batch.stop, done.vectors, done.sha256, done.failures))
        if done.batch.last:
            # Writing and syncing a large shard may take its time.
            self._tick(owed=False)
            writer.commit()
            self.open.pop(writer.unit.number)
            self.claims.finish(writer.unit.number)
        self.reasons.update(reason for _, reason, _ in done.failures)
        self._advance(done.batch.stop - done.batch.start, len(done.failures))

    def _advance(self, rows: int, failed: int, *, made: bool = True) -> None:
        if made:
            self.done += rows
            self.failed += failed
        else:
            self.total -= rows
        self._tell()

    def _tick(self, *, owed: bool = True) -> None:
        if self.in_hand is not None:
            self.in_hand.tick(owed=owed)

    def _tell(self, note: str = "") -> None:
        self._tick()
        if self.progress is not None:
            self.progress(Progress(self.done, self.total, self.failed, note))

    def _provenance(self) -> dict[str, Any]:
        return {
            **self.engine.provenance(),
            "batch": self.batch,
            "weights_name": self.manifest.weights_name,
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def advice(timings: Timings) -> str:
    """Return in one line what bounded the run and what would make it faster."""
    clock = timings.waiting + timings.forward + timings.blocked
    if not timings.forwarded or clock <= 0:
        return ""
    shares = {
        "waiting": timings.waiting / clock,
        "forward": timings.forward / clock,
        "blocked": timings.blocked / clock,
    }
    first = max(shares, key=shares.__getitem__)
    share = f"{shares[first]:.0%} of the time"
    if first == "forward":
        return f"the network was the bottleneck ({share}): a GPU, a faster --engine or a lighter --backbone would help"
    if first == "blocked":
        return f"writing was the bottleneck ({share}): a faster disk for the store, or --dtype float16, would help"
    stage = "reading" if timings.read > timings.decode else "decoding"
    remedy = "a faster disk, or more --workers to read in parallel" if stage == "reading" else "more --workers"
    return f"{stage} the pictures was the bottleneck (the network waited {share}): {remedy} would help"
