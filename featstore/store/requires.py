"""Add to what a store requires of its reader, before something that needs it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from featstore.store.claims import Claims
from featstore.store.manifest import Manifest

_WORK: Final = "requires"
"""Name of the claim that this needs: of two writers that change the list at once, the later would lose the other's entry."""


def require(store: Path, *features: str) -> None:
    """Add ``features`` to what the store requires of its reader, one writer after the other.

    The caller has announced itself, so no compaction replaces the manifest meanwhile.
    """
    if set(features) <= set(Manifest.read(store).requires):
        return
    with Claims(store) as claims:
        # Closing releases the claim; the next compaction removes it.
        claims.wait_for(_WORK)
        Manifest.read(store).requiring(*features).write(store)
