"""Read and decode the pictures of a store's rows; return the pixels, or the reason of the failure."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.decode import DecodeFailure, Decoder, Fitting, Preprocessing
from featstore.decode.opening import as_failure
from featstore.embed.pipeline import NO_DIGEST, Batch, Loaded, Part, Timings, one_by_one
from featstore.processes.in_hand import DECODING, READING, InHand
from featstore.sources.base import ReadFailure
from featstore.sources.reading import read_picture
from featstore.store.cutting import CutPicture
from featstore.store.denylist import DENIED_MESSAGE, DENIED_PICTURE, ContentTest
from featstore.store.plan import Unit
from featstore.store.rows import Rows
from featstore.store.writer import SUPERSEDED

_MEMORY: Final = ("out-of-memory", "the picture does not fit into the memory there is")
Cutting = Callable[[Hashable, Callable[[], CutPicture]], CutPicture]
"""Function (place, make) that returns the CutPicture of one picture file; see SharedDecoding.cut.

``place`` identifies the file. ``make`` creates the CutPicture if no concurrent extraction has created it yet."""
Root = Callable[[int], Path]
"""Function that takes the number of a segment (the part of the plan for one source) and returns the root folder of the
segment's pictures."""


class Target(Protocol):
    """The attributes of a unit (a group of rows) that a Loader needs; UnitWriter has these attributes."""

    @property
    def unit(self) -> Unit: ...
    @property
    def rows(self) -> Rows: ...
    @property
    def superseded(self) -> NDArray[np.bool_]: ...
    @property
    def culprits(self) -> dict[int, tuple[str, str]]: ...
    @property
    def denied(self) -> ContentTest: ...


@dataclass(frozen=True)
class Watch:
    """Reports the state of an extraction to a supervising process.

    ``in_hand``: the rows being decoded. ``began``: start of the work by time.monotonic, a clock that all processes of a
    machine share. ``begin``: called at the start with the root folders, the numbers of new, changed and retired rows of
    the plan, and the counts of failures by reason; these counts are updated during the extraction.
    """

    in_hand: InHand
    began: float
    begin: Callable[[list[Path], dict[str, int], dict[str, int]], None]


class Loader:
    """Reads and decodes the pictures of rows; safe to call from several threads."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        root: Root,
        timings: Timings,
        *,
        max_pixels: int,
        max_bytes: int,
        decode: Decoder,
        fit: Fitting,
        cut: Cutting | None = None,
        in_hand: InHand | None = None,
    ) -> None:
        self.preprocessing, self.root, self.timings = preprocessing, root, timings
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.decode, self.fit, self.in_hand = decode, fit, in_hand
        self.cut = cut
        self._last: tuple[Target | None, int, CutPicture | None] = (None, -1, None)
        self._lock = threading.Lock()
        self._recent: tuple[Target, int, CutPicture] | None = None

    def parts(self, batch: Batch, decoders: Executor | None = None) -> list[Part]:
        """Return the functions that load a batch: one per picture, even if many rows are regions of the same picture.

        Must be called in the order of the batches, so that a picture is decoded once for all its adjacent regions.
        """
        target, rows, self._recent = batch.target, batch.target.rows, None
        if rows.regions is None:
            return one_by_one(partial(self, decoders=decoders))(batch)
        parts: list[Part] = []
        start = batch.start
        while start < batch.stop:
            stop = start + 1
            while stop < batch.stop and rows.same_picture(stop, start):
                stop += 1
            last, at, picture = self._last
            if picture is None or last is not target or at != start - 1 or not rows.same_picture(at, start):
                picture = self._cut_picture(target, start)
            self._last = target, stop - 1, picture
            parts.append(partial(self._regions, target, range(start, stop), picture, decoders))
            start = stop
        return parts

    def __call__(self, target: Target, row: int, decoders: Executor | None = None) -> Loaded:
        """Load one row of a unit; decode its picture in ``decoders``, or in this thread if ``decoders`` is None.

        Raises OSError if this process has no file handles or memory left, because that is not a fault of the picture.
        """
        rows = target.rows
        if target.superseded[row]:
            return Loaded(None, NO_DIGEST, SUPERSEDED, "retired from the plan before it was extracted")
        if culprit := target.culprits.get(row):
            return Loaded(None, NO_DIGEST, *culprit)
        if rows.regions is not None:
            return self._regions(target, range(row, row + 1), self._recent_picture(target, row), decoders)[0]
        location = rows.location(row)
        digest, unit, root = NO_DIGEST, target.unit.number, self.root(target.unit.segment)
        try:
            with self._stage("read", READING, unit, row):
                picture = read_picture(
                    root, location, int(rows.offsets[row]), int(rows.sizes[row]), limit=self.max_bytes
                )
                digest = hashlib.sha256(picture.data).digest()
            if target.denied(digest):
                return Loaded(None, digest, DENIED_PICTURE, DENIED_MESSAGE)
            if decoders is None:
                return Loaded(self._decoded(picture.data, unit, row), digest)
            return Loaded(decoders.submit(self._decoded, picture.data, unit, row).result(), digest)
        except (ReadFailure, DecodeFailure) as failure:
            return Loaded(None, digest, failure.reason, failure.message)
        except MemoryError:
            return Loaded(None, digest, *_MEMORY)

    def _decoded(self, data: bytes, unit: int, row: int) -> NDArray[np.uint8]:
        with self._stage("decode", DECODING, unit, row):
            return self.decode(data, self.preprocessing, max_pixels=self.max_pixels)

    def _recent_picture(self, target: Target, row: int) -> CutPicture:
        """Return the picture of one row. Consecutive rows that are regions of the same picture share one decoded
        picture.
        """
        with self._lock:
            last = self._recent
            if last is None or last[0] is not target or not target.rows.same_picture(last[1], row):
                last = self._recent = target, row, self._cut_picture(target, row)
            return last[2]

    def _cut_picture(self, target: Target, row: int) -> CutPicture:
        rows, root = target.rows, self.root(target.unit.segment)
        place = rows.location(row), int(rows.offsets[row]), int(rows.sizes[row])
        make = partial(CutPicture, root, *place, max_pixels=self.max_pixels, max_bytes=self.max_bytes)
        return make() if self.cut is None else self.cut((root, *place, int(rows.mtimes[row])), make)

    def _regions(
        self, target: Target, rows: Sequence[int], picture: CutPicture, decoders: Executor | None
    ) -> list[Loaded]:
        """Load ``rows``, which are regions of one picture."""
        # If decoding one region of this picture killed a process, record all regions of the picture as failures without
        # decoding them.
        culprit = next((told for row, told in target.culprits.items() if target.rows.same_picture(row, rows[0])), None)
        if culprit is not None:
            return [Loaded(None, NO_DIGEST, *culprit) for _ in rows]
        found = dict.fromkeys(
            rows, Loaded(None, NO_DIGEST, SUPERSEDED, "retired from the plan before it was extracted")
        )
        todo = [row for row in rows if not target.superseded[row]]
        unit = target.unit.number
        if todo:
            digest = NO_DIGEST
            try:
                with self._stage("read", READING, unit, todo[0]):
                    digest = picture.read()
                work = partial(self._fitted, picture, digest, target, todo)
                if target.denied(digest):
                    loaded = [Loaded(None, digest, DENIED_PICTURE, DENIED_MESSAGE)] * len(todo)
                else:
                    loaded = work() if decoders is None else decoders.submit(work).result()
            except (ReadFailure, DecodeFailure) as failure:
                loaded = [Loaded(None, digest, failure.reason, failure.message)] * len(todo)
            except MemoryError:
                loaded = [Loaded(None, digest, *_MEMORY)] * len(todo)
            found.update(zip(todo, loaded, strict=True))
        return list(found.values())

    def _fitted(self, picture: CutPicture, digest: bytes, target: Target, rows: Sequence[int]) -> list[Loaded]:
        unit = target.unit.number
        with self._stage("decode", DECODING, unit, rows[0]):
            picture.decode()
        found = []
        for row in rows:
            try:
                with self._stage("decode", DECODING, unit, row), as_failure():
                    region = target.rows.region(row)
                    pixels = self.fit(picture.region(region), self.preprocessing, digest, region)
                    found.append(Loaded(pixels, digest))
            except (ReadFailure, DecodeFailure) as failure:
                found.append(Loaded(None, digest, failure.reason, failure.message))
        return found

    @contextlib.contextmanager
    def _stage(self, name: str, stage: int, unit: int, row: int) -> Iterator[None]:
        """Record the row and stage of work of this thread during the block, and the seconds that the block took."""
        started, processor = time.perf_counter(), time.thread_time()
        if self.in_hand is not None:
            self.in_hand.hold(unit, row, stage)
        try:
            yield
        finally:
            if self.in_hand is not None:
                self.in_hand.free()
            taken = {name: time.perf_counter() - started}
            self.timings.add(load_processor=time.thread_time() - processor, **taken)
