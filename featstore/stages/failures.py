"""featstore.list_failures: the unreadable pictures of a store, with reasons."""

from __future__ import annotations

import os

from featstore.store import Failure, FeatureStore


def list_failures(store: str | os.PathLike[str]) -> list[tuple[str, Failure]]:
    """Return (key, Failure) of each live picture that has no vector because it could not be read.

    Raises UsageError if there is no store, DamagedError.
    """
    return FeatureStore.open(os.fspath(store)).failures()
