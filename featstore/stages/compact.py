"""featstore.compact: purge retired rows of a store and merge its small shards."""

from __future__ import annotations

import os

from featstore.store.compaction import CompactReport, compact_store


def compact(store: str | os.PathLike[str]) -> CompactReport:
    """Purge removed and replaced pictures from ``store``, and merge its small shards; ids and keys do not change.

    The store's history keeps keys and dates of the purged pictures (see FeatureStore.open, ``at``).
    Raises UsageError if there is no store, FeatstoreError while another process writes to it.
    """
    return compact_store(store)
