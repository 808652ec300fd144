"""Add names to the list ``requires`` in featstore.json: features of the file format that a reader must support.

A name is added before the first data that needs this format feature is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from featstore.store.claims import Claims
from featstore.store.manifest import Manifest

_WORK: Final = "requires"
"""Name of the claim (lock) for changes of ``requires``: without it, one process could undo the change of another."""


def require(store: Path, *features: str) -> None:
    """Add the format ``features`` to the manifest's ``requires``, one process after the other.

    The caller must have called Claims.join, so that no compaction can replace the manifest at the same time.
    """
    if set(features) <= set(Manifest.read(store).requires):
        return
    with Claims(store) as claims:
        # The claim (lock) is released at the end of this block; the next compaction removes its folder.
        claims.wait_for(_WORK)
        Manifest.read(store).requiring(*features).write(store)
