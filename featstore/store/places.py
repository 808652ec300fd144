"""Find out from a store's plan in which file or archive the picture of a key is stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featstore.errors import UsageError
from featstore.sources.base import ReadFailure
from featstore.sources.reading import resolve
from featstore.store.plan import Plan
from featstore.store.rows import Region
from featstore.text import quoted


class Place(NamedTuple):
    """Where a picture is stored: in the file ``location`` below the folder ``root``, or in an archive.

    ``id``: id of the picture's row. ``offset``: byte offset in the archive, -1 for a file of its own. ``size``: size in
    bytes. ``region``: part of the picture that the row stands for; None for the whole picture.
    """

    id: int
    root: Path
    location: bytes
    offset: int
    size: int
    region: Region | None = None

    def path(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Return the path of the file that contains the picture.

        ``root``: replaces the recorded root. Raises UsageError if the path is outside the root.
        """
        if root is None and os.fspath(self.root) == os.devnull:
            raise UsageError(f"{quoted(self.location)}: was imported without its picture; name its folder with root")
        location = self.location.partition(b"\0")[0] if self.offset >= 0 else self.location
        try:
            return Path(os.path.abspath(os.fsdecode(resolve(os.fsencode(root or self.root), location))))
        except ReadFailure as failure:
            raise UsageError(failure.message) from None


def place_of(plan: Plan, key: bytes) -> Place | None:
    """Return where the picture of ``key`` is stored; None if the plan has no live row with this key."""
    (number,) = plan.find_keys([key]).tolist()
    for segment in plan.segments:
        if len(segment.ids) and segment.ids[0] <= number <= segment.ids[-1]:
            row = int(np.searchsorted(segment.ids, number))
            rows = segment.rows(row, row + 1)
            root = Path(str(segment.source.get("root", "/")))
            return Place(number, root, rows.location(0), int(rows.offsets[0]), int(rows.sizes[0]), rows.region(0))
    return None
