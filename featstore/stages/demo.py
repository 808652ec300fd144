"""The demo: all steps on a data set of scikit-learn, from pictures to store, heads, index and page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.artifacts import index_path, is_index, open_index
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic
from featstore.stages.index import index as build_index
from featstore.stages.sample import write_sample
from featstore.stages.train import TrainReport, assess, head_path, train
from featstore.store import FeatureStore
from featstore.store.origin import KEY, generation_number, origins_in
from featstore.store.splitting import split_store
from featstore.store.stacked import StackedStores

if TYPE_CHECKING:
    from featstore.embed.progress import Progress
    from featstore.sources import Source
    from featstore.sources.base import Chunk
    from featstore.stages.extract import ExtractReport

SAMPLE, BACKBONE = "digits", "efficientnet_lite0"
HEADS = ("logreg", "linear-svm", "rbf-svm", "knn")
TIMES = "demo.json"
"""Name of the file with the duration of each step in seconds. A later run keeps the results of the steps and shows
these durations.
"""
EXTRACT_BATCH = 8
"""Batch size of the extraction: small batches keep every engine busy on few cores and fit into the processor's cache.
"""


@dataclass(frozen=True)
class Step:
    """A step of the demo: the equivalent command, its result, and its duration in seconds.

    ``kept``: the result of an earlier run was used. ``made_in``: seconds that the step took when its result was made,
    in this run or in the earlier run.
    """

    name: str
    command: str
    result: str
    seconds: float
    kept: bool = False
    made_in: float = 0.0


@dataclass
class DemoReport:
    """Result of the demo: files, steps, and the reports of its heads; the page describes the first head in detail."""

    folder: str
    store: str
    page: str
    images: int = 0
    vectors: int = 0
    failures: int = 0
    steps: list[Step] = field(default_factory=list)
    heads: list[TrainReport] = field(default_factory=list)
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"<DemoReport {self.page!r}: {self.images:,} images, {len(self.heads)} heads, {self.seconds:.1f} s>"

    def to_dict(self) -> dict[str, Any]:
        """Return the result of the demo as JSON types."""
        heads = {
            one.head.kind: {
                "head": one.path,
                "accuracy": one.report.to_dict()["estimates"]["accuracy"],
                "chosen": one.chosen,
            }
            for one in self.heads
        }
        values = {name: getattr(self, name) for name in ("folder", "page", "images", "vectors", "failures", "seconds")}
        return {**values, "heads": heads, "steps": [dict(step.__dict__) for step in self.steps]}


def demo(
    folder: str | os.PathLike[str] = "featstore-demo",
    *,
    limit: int | None = None,
    engine: str = defaults.ENGINE,
    progress: Callable[[Progress], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    write_page: Callable[[DemoReport], object] | None = None,
) -> DemoReport:
    """Run all steps of the demo in ``folder``, without a network connection.

    Uses 1,797 handwritten digits (see featstore.stages.sample), features of EfficientNet-Lite0 with its ImageNet
    weights, four heads and an index. Finished results of an earlier run are kept. ``limit``: use only about this many
    digits, at even intervals. ``progress``: as in extract. ``on_step``: called after each step. ``write_page``: called
    with the report at the end, such as featstore.pages.demo.write_demo_page, which writes demo.html. Raises UsageError
    if the folder has other content, FeatstoreError if a step fails, OSError if writing fails.
    """
    from featstore.sources import open_source
    from featstore.stages.extract import extract

    started = time.perf_counter()
    base = Path(folder)
    if base.exists() and not base.is_dir():
        raise UsageError(f"{base}: is a file; name a folder for the demo")
    pictures, store = base / SAMPLE, base / f"{SAMPLE}.store"
    report = DemoReport(str(base), str(store), str(base / "demo.html"))

    earlier = _earlier_seconds(base)

    def step(name: str, command: str, work: Callable[[], tuple[Any, str, bool]]) -> Any:
        before = time.perf_counter()
        value, result, kept = work()
        seconds = round(time.perf_counter() - before, 3)
        done = Step(name, command, result, seconds, kept, earlier.get(name, seconds) if kept else seconds)
        report.steps.append(done)
        if on_step is not None:
            on_step(done)
        return value

    def sample() -> tuple[int, str, bool]:
        there = pictures.exists()
        count = write_sample(SAMPLE, pictures)
        return count, f"{count:,} pictures of handwritten digits, 8 x 8 pixels each", there

    def extraction() -> tuple[ExtractReport, str, bool]:
        source = open_source(pictures)
        made = extract(
            source if limit is None else EvenSubset(source, limit),
            store,
            backbone=BACKBONE,
            engine=engine,
            supervised=False,
            batch=EXTRACT_BATCH,
            progress=progress,
        )
        return made, f"{made.vectors:,} vectors, {made.new_vectors:,} of them new", not made.new_vectors

    step("sample", f"featstore sample {SAMPLE} {pictures}", sample)
    command = f"featstore extract {pictures} {store} --backbone {BACKBONE}"
    made = step("extract", command, extraction)
    report.images, report.vectors, report.failures = made.images, made.vectors, made.failures
    for kind in HEADS:
        command = f"featstore train {store} --head {kind}"
        trained: TrainReport = step(f"train {kind}", command, partial(_trained, store, kind))
        report.heads.append(trained)
    step("index", f"featstore index {store}", partial(_indexed, store))
    if write_page is not None:
        write_page(report)
    atomic.write_json(base / TIMES, {"seconds": {step.name: step.made_in for step in report.steps}})
    report.seconds = round(time.perf_counter() - started, 3)
    return report


def _earlier_seconds(base: Path) -> dict[str, float]:
    """Return a dict from the name of each step to the seconds that it took in earlier runs."""
    try:
        seconds = atomic.read_json(base / TIMES)["seconds"]
        return {str(name): float(value) for name, value in seconds.items()}
    except (OSError, DamagedError, KeyError, AttributeError, TypeError, ValueError):
        return {}


def _trained(store: Path, kind: str) -> tuple[TrainReport, str, bool]:
    kept = _kept(store, kind)
    # force: an earlier head may have other classes, made with another --limit. It is safe to overwrite this head,
    # because the folder belongs to the demo.
    trained = kept or train(store, head=kind, force=True)
    share, rows = trained.report.accuracy.value, trained.report.rows
    return trained, f"{share:.1%} of {rows:,} held-out pictures right", kept is not None


def _kept(store: Path, kind: str) -> TrainReport | None:
    """Return the report of an earlier run's head if store and labels have not changed since, otherwise None."""
    from featstore.heads import load_head

    path = head_path(store, kind)
    try:
        head = load_head(path)
    except (OSError, DamagedError):
        return None
    opened = FeatureStore.open(store)
    now = ([opened.store_id], generation_number(opened), opened._tables.version)
    ids = [one.get("store_id") for one in origins_in(head.meta.get(KEY))]
    if (ids, head.meta.get("generation"), head.meta.get("label_version")) != now:
        return None
    split = split_store(opened)
    if head.meta.get("split") != split.to_dict():
        return None
    seconds = head.meta.get("seconds")
    if not isinstance(seconds, dict):
        return None
    probabilities, report, before = assess(StackedStores([opened]), head, split)
    return TrainReport(str(store), str(path), head, report, split, probabilities, split.notes(), seconds, before)


def _indexed(store: Path) -> tuple[None, str, bool]:
    path = index_path(store)
    if is_index(path):
        opened = FeatureStore.open(store)
        index = open_index(path)
        ids = [one.get("store_id") for one in origins_in(index.info()["identity"].get(KEY))]
        if ids == [opened.store_id] and index.staleness(generation_number(opened), opened.ids).fresh:
            return None, f"{len(index):,} vectors", True
    made = build_index(store)
    return None, f"{made.info['rows']:,} vectors, {'exact' if made.info['exact'] else 'approximate'}", False


class EvenSubset:
    """A source with about ``limit`` pictures of another source, chosen at even intervals."""

    def __init__(self, source: Source, limit: int) -> None:
        if limit < 1:
            raise UsageError("limit has to be at least 1")
        self.source, self.limit = source, limit
        self.kind, self.location, self.root, self.layout = source.kind, source.location, source.root, source.layout
        self.notes, self.ignored, self.read_as, self.unfound = source.notes, 0, "", ""

    def describe(self) -> dict[str, Any]:
        """Return the description of the complete source, as if this subset contained all its pictures."""
        return self.source.describe()

    def chunks(self, rows: int = 65536) -> Iterator[Chunk]:
        """Yield the chosen pictures, in chunks."""
        total = sum(len(chunk) for chunk in self.source.chunks(rows))
        start = 0
        for chunk in self.source.chunks(rows):
            places = np.arange(start, start + len(chunk))
            chosen = (places * self.limit) // total != ((places - 1) * self.limit) // total
            start += len(chunk)
            if chosen.any():
                yield _take(chunk, np.flatnonzero(chosen))
        self.notes, self.read_as, self.unfound = self.source.notes, self.source.read_as, self.source.unfound


def _take(chunk: Chunk, rows: NDArray[np.int64]) -> Chunk:
    from featstore.sources.base import Chunk as made

    at = rows.tolist()
    return made(
        [chunk.keys[row] for row in at],
        chunk.sizes[rows],
        chunk.mtimes[rows],
        chunk.offsets[rows],
        None if chunk.locations is None else [chunk.locations[row] for row in at],
        [chunk.labels[row] for row in at],
        [chunk.splits[row] for row in at],
        {name: [column[row] for row in at] for name, column in chunk.metadata.items()},
    )
