"""Differences between an index and the store that it was built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featstore.text import counted


@dataclass(frozen=True)
class Staleness:
    """Differences between an index and its store.

    ``missing``: ids that are only in the store. ``gone``: ids that are only in the index. ``relabelled``: ids whose
    label in the store differs from their label in the index. ``older``: whether the store has changed (newer
    generation) since the index was built or updated.
    """

    missing: NDArray[np.int64]
    gone: NDArray[np.int64]
    older: bool
    relabelled: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def fresh(self) -> bool:
        """Whether index and store have the same rows with the same labels."""
        return not len(self.missing) and not len(self.gone) and not len(self.relabelled)

    def __str__(self) -> str:
        if self.fresh:
            return "up to date"
        parts = []
        if len(self.missing) or len(self.gone):
            parts.append(
                f"the store has {counted(len(self.missing), 'row')} that the index lacks and lacks {len(self.gone):,} of its rows"
            )
        if len(self.relabelled):
            parts.append(f"{counted(len(self.relabelled), 'row has', 'rows have')} another label in the store")
        return "; ".join(parts)


def compare(
    own: NDArray[np.int64],
    live_ids: NDArray[np.integer],
    known: Sequence[str | None] | None,
    labels: Sequence[str | None] | None,
    *,
    older: bool,
) -> Staleness:
    """Compare an index with its store. ``own`` (n,): ids of the index's searchable rows; ``live_ids`` (m,): ids in the
    store.

    ``known`` (m): labels of ``live_ids`` in the index; ``labels`` (m): labels of these ids in the store. If one of the
    two is None, labels are not compared.
    """
    live = np.asarray(live_ids).astype(np.int64)
    missing = np.setdiff1d(live, own)
    changed = np.empty(0, np.int64)
    if known is not None and labels is not None:
        differs = np.array([a != b for a, b in zip(known, labels, strict=True)], bool)
        changed = np.setdiff1d(live[differs], missing)
    return Staleness(missing, np.setdiff1d(own, live), older, changed)
