"""featstore: pictures into feature vectors once, in a store that lasts; heads and indexes on them.

    import featstore

    featstore.extract("pictures/", "my.store")
    store = featstore.FeatureStore.open("my.store")
    featstore.train("my.store").report.accuracy

Nothing heavy is loaded before it is used: ``import featstore`` imports none of its dependencies.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.benchmarking import bench, bench_store
    from featstore.demonstrating import demo
    from featstore.duplication import find_duplicates
    from featstore.errors import DamagedError, FeatstoreError, IdentityError, UsageError
    from featstore.extraction import extract
    from featstore.heads import TrainedHead, load_head
    from featstore.image_embedder import ImageEmbedder
    from featstore.index import FeatureIndex
    from featstore.indexing import index_store
    from featstore.inspection import describe, describe_store
    from featstore.labelling import label
    from featstore.predicting import predict
    from featstore.queries import Wanted
    from featstore.searching import search
    from featstore.store import FeatureStore
    from featstore.store.compacting import compact
    from featstore.store.verifying import verify_store
    from featstore.training import train

_HOMES = {
    "DamagedError": "errors",
    "FeatstoreError": "errors",
    "FeatureIndex": "index",
    "FeatureStore": "store",
    "IdentityError": "errors",
    "ImageEmbedder": "image_embedder",
    "TrainedHead": "heads",
    "UsageError": "errors",
    "Wanted": "queries",
    "bench": "benchmarking",
    "bench_store": "benchmarking",
    "compact": "store.compacting",
    "demo": "demonstrating",
    "describe": "inspection",
    "describe_store": "inspection",
    "extract": "extraction",
    "find_duplicates": "duplication",
    "index_store": "indexing",
    "label": "labelling",
    "load_head": "heads",
    "predict": "predicting",
    "search": "searching",
    "train": "training",
    "verify_store": "store.verifying",
}

__all__ = [
    "DamagedError",
    "FeatstoreError",
    "FeatureIndex",
    "FeatureStore",
    "IdentityError",
    "ImageEmbedder",
    "TrainedHead",
    "UsageError",
    "Wanted",
    "bench",
    "bench_store",
    "compact",
    "demo",
    "describe",
    "describe_store",
    "extract",
    "find_duplicates",
    "index_store",
    "label",
    "load_head",
    "predict",
    "search",
    "train",
    "verify_store",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
