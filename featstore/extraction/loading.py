"""From a row of the plan to a picture's pixels, or to the reason why there are none."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from featstore.decode import DecodeFailure, Preprocessing, decode
from featstore.extraction.pipeline import NO_DIGEST, Loaded, Timings
from featstore.sources.reading import ReadFailure, read_picture
from featstore.store.writing import SUPERSEDED, UnitWriter

Root = Callable[[int], Path]
"""Of a plan segment's number: the folder in which its relative locations lie."""


class Loader:
    """Reads and decodes rows; safe to call from several threads."""

    def __init__(
        self, preprocessing: Preprocessing, root: Root, timings: Timings, *, max_pixels: int, max_bytes: int
    ) -> None:
        self.preprocessing, self.root, self.timings = preprocessing, root, timings
        self.max_pixels, self.max_bytes = max_pixels, max_bytes

    def __call__(self, target: UnitWriter, row: int) -> Loaded:
        """Load a row of a unit. Raises OSError where this process lacks handles or memory, which is no picture's fault."""
        rows = target.rows
        if target.superseded[row]:
            return Loaded(None, NO_DIGEST, SUPERSEDED, "retired from the plan before it was extracted")
        location = rows.keys[row] if rows.locations is None else rows.locations[row]
        started = time.perf_counter()
        digest = NO_DIGEST
        read = started
        try:
            picture = read_picture(
                self.root(target.unit.segment),
                location,
                int(rows.offsets[row]),
                int(rows.sizes[row]),
                limit=self.max_bytes,
            )
            digest = hashlib.sha256(picture.data).digest()
            read = time.perf_counter()
            return Loaded(decode(picture.data, self.preprocessing, max_pixels=self.max_pixels), digest)
        except (ReadFailure, DecodeFailure) as failure:
            return Loaded(None, digest, failure.reason, failure.message)
        finally:
            ended = time.perf_counter()
            read = read if read > started else ended
            self.timings.add(read=read - started, decode=ended - read)


def check_root(root: Path, kind: str) -> bool:
    """Return whether the pictures' folder is there at all: an unmounted disk is not a folder of missing pictures."""
    return kind == "list" or os.path.isdir(root)
