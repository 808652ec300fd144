"""Rows of a plan as columns: pictures, and regions of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.store.ids import Ids

REGIONS: Final = "regions"
"""Name in the manifest's ``requires`` of a store with regions of pictures."""
COLUMNS: Final = ("parent", "x", "y", "w", "h")
"""Additional columns of a store with regions."""


def renamed(columns: Iterable[str]) -> list[str]:
    """Return a note if metadata ``columns`` are renamed because a store with regions has columns of the same names."""
    names = [name for name in columns if name in COLUMNS]
    if not names:
        return []
    one = len(names) == 1
    return [
        f"the {'column' if one else 'columns'} {', '.join(names)} of the table {'is' if one else 'are'} called "
        f"{', '.join(f'{name}_' for name in names)} in the store: {', '.join(COLUMNS)} are those of its regions"
    ]


class Region(NamedTuple):
    """A box (x, y, w, h) in pixels of the upright picture.

    ``parent``: length of the picture's key, which is a prefix of the region's key; 0 if the row is the whole picture.
    """

    x: int
    y: int
    w: int
    h: int
    parent: int


@dataclass(frozen=True)
class Rows:
    """Rows of a plan as columns.

    ``locations``: None if the keys are the locations. ``regions``: (n, 5) int32, each row a Region; None if all rows
    are whole pictures.
    """

    ids: Ids
    keys: Sequence[bytes]
    views: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    locations: Sequence[bytes] | None
    regions: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def location(self, row: int) -> bytes:
        """Return the location of a row's picture."""
        return self.keys[row] if self.locations is None else self.locations[row]

    def region(self, row: int) -> Region | None:
        """Return the region of a row, None for a whole picture."""
        if self.regions is None or not self.regions[row, 4]:
            return None
        return Region(*self.regions[row].tolist())

    def same_picture(self, row: int, other: int) -> bool:
        """Return whether two rows are regions of the same picture."""
        return bool(self.offsets[row] == self.offsets[other]) and self.location(row) == self.location(other)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Return a new Rows object with the selected ``rows``."""
        at = rows.tolist()
        return Rows(
            self.ids[rows],
            [self.keys[i] for i in at],
            self.views[rows],
            self.sizes[rows],
            self.mtimes[rows],
            self.offsets[rows],
            None if self.locations is None else [self.locations[i] for i in at],
            None if self.regions is None else self.regions[rows],
        )


def merged(parts: Sequence[Rows]) -> Rows:
    """Return the Rows objects ``parts`` as one, in order."""
    if not parts:
        none = np.empty(0, np.int64)
        return Rows(none, [], np.empty(0, np.uint32), none, none, none, None)
    relocated = any(part.locations is not None for part in parts)
    cut = any(part.regions is not None for part in parts)
    whole = np.zeros((max(map(len, parts)), 5), np.int32)
    return Rows(
        np.concatenate([part.ids for part in parts]),
        [key for part in parts for key in part.keys],
        np.concatenate([part.views for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.mtimes for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        [location for part in parts for location in (part.locations or part.keys)] if relocated else None,
        np.concatenate([whole[: len(part)] if part.regions is None else part.regions for part in parts])
        if cut
        else None,
    )


def parents(keys: Sequence[bytes], regions: NDArray[np.int32] | None) -> list[bytes]:
    """Return the key of each row's picture."""
    if regions is None:
        return list(keys)
    return [key[:length] if length else key for key, length in zip(keys, regions[:, 4].tolist(), strict=True)]
