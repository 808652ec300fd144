"""Extract the units of a plan. A unit is a group of rows whose vectors form one shard (file).

For each unit: claim (lock) the unit, extract it in batches, and write its shard.
"""

from __future__ import annotations

import os
import platform
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featstore import defaults
from featstore.embed import pipeline
from featstore.embed.pipeline import Batch, Done, Timings
from featstore.embed.progress import Progress
from featstore.processes.in_hand import InHand
from featstore.store import shards, written
from featstore.store.claims import Claims
from featstore.store.journal import Block
from featstore.store.manifest import Manifest
from featstore.store.owners import Owner
from featstore.store.plan import Plan, Unit
from featstore.store.writer import SUPERSEDED, UnitWriter

if TYPE_CHECKING:
    from featstore.decode import Decoder
    from featstore.embed.loader import Cutting
    from featstore.embed.parity_check import PlannedUnit
    from featstore.embed.recipe import Network

_POLL_SECONDS: Final = 1.0


class Run:
    """Extract pending units; the attributes hold the progress and the counts for the report."""

    def __init__(
        self,
        store: Path,
        manifest: Manifest,
        plan: Plan,
        roots: list[Path],
        claims: Claims,
        timings: Timings,
    ) -> None:
        self.claims = claims
        self.store, self.manifest, self.batch = store, manifest, defaults.BATCH
        self.progress: Callable[[Progress], None] | None = None
        self.stop = threading.Event()
        self.plan, self.roots = plan, roots
        self.timings, self.reasons = timings, Counter[str]()
        self.done = self.failed = 0
        self.stopped = False
        self.in_hand: InHand | None = None
        self.open: dict[int, UnitWriter] = {}
        self.todo: list[Unit] = []
        self.absent: list[Unit] = []
        self.total = self.shared = 0
        self.lost: list[Path] = []
        self._note = ""
        self._measure: Callable[[PlannedUnit], dict[str, Any] | None] | None = None
        self._drift: dict[str, Any] | None = None
        self._maker: dict[str, Any] = {}

    @property
    def kept(self) -> int:
        """Number of pictures in unfinished units that this process has already extracted.

        The vectors of these pictures are in journals: files that keep the vectors of a unit until its shard is written.
        """
        return sum(writer.next_row for writer in self.open.values())

    def take(self, units: Sequence[Unit]) -> None:
        """Set ``todo`` to the units that have no shard and whose folder of pictures exists.

        Set ``absent`` to the units that have no shard and whose folder does not exist, and ``lost`` to the shards that
        were written earlier and are missing now.
        """
        there = [
            _is_there(root, str(segment.source.get("kind")))
            for root, segment in zip(self.roots, self.plan.segments, strict=True)
        ]
        bare = [unit for unit in units if not shards.has_shard(self.store, unit.number)]
        self.todo = [unit for unit in bare if there[unit.segment]]
        self.absent = [unit for unit in bare if not there[unit.segment]]
        self.total = sum(map(len, self.todo))
        marks = written.marks(self.store)
        lost = [shards.shard_path(self.store, unit.number) for unit in self.todo]
        self.lost = [path for path in lost if written.mark_of(path) in marks]

    def root(self, segment: int) -> Path:
        """Return the root folder of the pictures of the plan's segment number ``segment``; a segment has one source."""
        return self.roots[segment]

    def go(
        self,
        network: Network,
        decoding: int,
        *,
        max_pixels: int,
        max_bytes: int,
        decode: Decoder | None = None,
        cut: Cutting | None = None,
    ) -> None:
        """Extract all units in ``todo``, and wait for the units that other processes are extracting.

        ``decoding``: number of decoding threads. ``decode``: decoder function to use instead of the store's
        decoder. ``cut``: see Loader.
        """
        if not self.todo:
            return
        from featstore.decode import Augment, open_decoder, open_fitting
        from featstore.embed.loader import Loader
        from featstore.embed.parity_check import check_drift

        augment = Augment.from_dict(self.manifest.identity.augment)
        loader = Loader(
            network.backbone.preprocessing,
            self.root,
            self.timings,
            max_pixels=max_pixels,
            max_bytes=max_bytes,
            decode=decode or open_decoder(self.manifest.identity.decoder, augment),
            fit=open_fitting(self.manifest.identity.decoder, augment),
            cut=cut,
            in_hand=self.in_hand,
        )
        engine, long = network.engine, self.total >= defaults.DRIFT_RUN
        self._maker = engine.provenance()
        decoders = ThreadPoolExecutor(decoding, "featstore-decode")
        load = partial(loader, decoders=decoders)
        self._measure = partial(check_drift, load=load, engine=engine, backbone=network.backbone) if long else None
        try:
            pipeline.run(
                self._batches(),
                partial(loader.parts, decoders=decoders),
                engine,
                self._write,
                dtype=self.manifest.identity.numpy_dtype,
                threads=defaults.READERS,
                ahead=defaults.BATCHES_AHEAD,
                timings=self.timings,
            )
        finally:
            with self.timings.during("closing"):
                decoders.shutdown()
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
                elif shards.has_shard(self.store, unit.number):
                    self.claims.finish(unit.number)
                    self._advance(len(unit), 0, made=False)
                else:
                    self._note = ""
                    if self._measure is not None:
                        self._verify(unit, taken.directory)
                    writer = UnitWriter(self.store, self.manifest, self.plan, unit, taken, self._provenance())
                    self.open[unit.number] = writer
                    self._advance(writer.next_row, 0, made=False)
                    yield from self._cut(writer)
            todo = [unit for unit, _ in held if not shards.has_shard(self.store, unit.number)]
            self._advance(sum(len(unit) for unit, _ in held if unit not in todo), 0, made=False)
            if todo:
                # Write all vectors first: other processes may wait for the units of this process while this process
                # waits.
                yield None
                self._note = f"waiting for {len(todo):,} units held by {held[0][1]}"
                self._report_progress()
                with self.timings.during("others"):
                    self.stop.wait(_POLL_SECONDS)

    def _verify(self, unit: Unit, directory: Path) -> None:
        """Measure once how far the engine's vectors are from plain torch's, on pictures of ``unit``.

        ``directory``: the work folder of this unit.
        """
        from featstore.embed.parity_check import PlannedUnit

        assert self._measure is not None
        with self.timings.during("verifying"):
            self._drift = self._measure(PlannedUnit(self.plan, unit, directory))
        self._measure = None

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
            # Writing a large shard may be slow: tell the supervisor not to count this time as a stall.
            self._tick(owed=False)
            writer.commit()
            self.open.pop(writer.unit.number)
            self.claims.finish(writer.unit.number)
        # Do not count rows that were retired from the plan during the run: they are no longer pictures of the store.
        failed = [reason for _, reason, _ in done.failures if reason != SUPERSEDED]
        left = len(done.failures) - len(failed)
        self.reasons.update(failed)
        self.total -= left
        self._advance(done.batch.stop - done.batch.start - left, len(failed))

    def _advance(self, rows: int, failed: int, *, made: bool = True) -> None:
        if made:
            self.done += rows
            self.failed += failed
        else:
            self.total -= rows
        self._report_progress()

    def _tick(self, *, owed: bool = True) -> None:
        if self.in_hand is not None:
            self.in_hand.tick(owed=owed)

    def _report_progress(self) -> None:
        self._tick()
        if self.progress is not None:
            self.progress(Progress(self.done, self.total, self.failed, self._note))

    def _provenance(self) -> dict[str, Any]:
        return {
            **self._maker,
            **({} if self._drift is None else {"drift": self._drift}),
            "batch": self.batch,
            "weights_name": self.manifest.weights_name,
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _is_there(root: Path, kind: str) -> bool:
    """Return whether the folder of the pictures exists. If not (an unmounted disk), its pictures stay pending."""
    return kind == "list" or (kind != "import" and os.path.isdir(root))


def extract_units(
    store: Path, numbers: Sequence[int], roots: list[Path], network: Network, claims: Claims
) -> tuple[int, int]:
    """Extract only the pending units ``numbers``, for repair; return the numbers of new vectors and of new failures.

    ``roots``: root folders of the pictures, one for each segment of the plan (a segment has the rows of one source).
    """
    manifest = Manifest.read(store)
    plan = Plan(store, manifest.epoch)
    run = Run(store, manifest, plan, roots, claims, Timings())
    run.take([unit for unit in plan.units() if unit.number in numbers])
    run.go(network, os.cpu_count() or 1, max_pixels=defaults.MAX_PIXELS, max_bytes=defaults.MAX_FILE_BYTES)
    return run.done - run.failed, run.failed
