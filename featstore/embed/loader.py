"""Load a row of the plan: read and decode its picture, or return the reason of the failure."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.decode import DecodeFailure, Decoder, Preprocessing
from featstore.embed.pipeline import NO_DIGEST, Loaded, Timings
from featstore.processes.in_hand import DECODING, READING, InHand
from featstore.sources.base import ReadFailure
from featstore.sources.reading import read_picture
from featstore.store.denylist import DENIED_MESSAGE, DENIED_PICTURE, ContentTest
from featstore.store.plan import Rows, Unit
from featstore.store.writer import SUPERSEDED

Root = Callable[[int], Path]
"""Function from a plan segment's number to the root of its relative locations."""


class Target(Protocol):
    """The interface of a unit that a Loader needs; UnitWriter implements it."""

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
    """Messages to a supervisor: the rows being decoded and, at the start, the facts of the run.

    ``began``: start of the work by time.monotonic, which all processes of a machine share. ``begin`` gets the roots,
    the change of the plan, and the counts of failures by reason, a mapping that is updated during the run.
    """

    in_hand: InHand
    began: float
    begin: Callable[[list[Path], dict[str, int], dict[str, int]], None]


class Loader:
    """Read and decode rows; safe to call from several threads."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        root: Root,
        timings: Timings,
        *,
        max_pixels: int,
        max_bytes: int,
        decode: Decoder,
        in_hand: InHand | None = None,
    ) -> None:
        self.preprocessing, self.root, self.timings = preprocessing, root, timings
        self.max_pixels, self.max_bytes = max_pixels, max_bytes
        self.decode, self.in_hand = decode, in_hand

    def __call__(self, target: Target, row: int, decoders: Executor | None = None) -> Loaded:
        """Load a row of a unit; decode it in ``decoders``, or in this thread if None.

        Raises OSError if this process lacks handles or memory, which is not the picture's failure.
        """
        rows = target.rows
        if target.superseded[row]:
            return Loaded(None, NO_DIGEST, SUPERSEDED, "retired from the plan before it was extracted")
        if culprit := target.culprits.get(row):
            return Loaded(None, NO_DIGEST, *culprit)
        location = rows.keys[row] if rows.locations is None else rows.locations[row]
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
            return Loaded(None, digest, "out-of-memory", "the picture does not fit into the memory there is")

    def _decoded(self, data: bytes, unit: int, row: int) -> NDArray[np.uint8]:
        with self._stage("decode", DECODING, unit, row):
            return self.decode(data, self.preprocessing, max_pixels=self.max_pixels)

    @contextlib.contextmanager
    def _stage(self, name: str, stage: int, unit: int, row: int) -> Iterator[None]:
        """Record what this thread is doing, and afterwards how long it took."""
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
