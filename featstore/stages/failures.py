"""featstore.list_failures: the pictures of a store that could not be read, and why."""

from __future__ import annotations

import os

from featstore.store import Failure, FeatureStore


def list_failures(store: str | os.PathLike[str]) -> list[tuple[str, Failure]]:
    """Return (key, Failure) of every picture that counts and has no vector because reading it failed.

    Raises UsageError where there is no store, DamagedError.
    """
    return FeatureStore.open(os.fspath(store)).failures()
