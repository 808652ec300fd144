"""featstore.list_failures: the unreadable pictures of a store, with reasons."""

from __future__ import annotations

import os

from featstore.store import Failure, FeatureStore


def list_failures(store: str | os.PathLike[str]) -> list[tuple[str, Failure]]:
    """Return (key, Failure) of each picture in the store that has no vector because it could not be read.

    Removed and replaced pictures are left out. Raises UsageError if there is no store, DamagedError if it is damaged.
    """
    return FeatureStore.open(os.fspath(store)).failures()
