"""Staleness: the differences between an index and the store that it was built from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featstore.text import counted


@dataclass(frozen=True)
class Staleness:
    """Differences between an index and its store: ``missing`` ids are in the store only, ``gone`` in the index only.

    ``older``: whether the store has changed (newer generation) since the index was built or updated.
    """

    missing: NDArray[np.int64]
    gone: NDArray[np.int64]
    older: bool

    @property
    def fresh(self) -> bool:
        """Whether index and store hold the same rows."""
        return not len(self.missing) and not len(self.gone)

    def __str__(self) -> str:
        if self.fresh:
            return "up to date"
        return f"the store has {counted(len(self.missing), 'row')} that the index lacks and lacks {len(self.gone):,} of its rows"
