"""featstore.compact: erase removed and replaced rows of a store and merge its small shards."""

from __future__ import annotations

import os

from featstore.store.compaction import CompactReport, compact_store


def compact(store: str | os.PathLike[str]) -> CompactReport:
    """Erase removed and replaced pictures from the files of ``store``, and merge its small shards.

    Ids and keys of the other pictures do not change. The store's history keeps the keys and dates of erased pictures
    (see FeatureStore.open, ``at``). Raises UsageError if there is no store, FeatstoreError while another process writes
    to it.
    """
    return compact_store(store)
