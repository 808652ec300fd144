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
    from featstore.embed.transformer import ImageEmbedder
    from featstore.errors import DamagedError, FeatstoreError, IdentityError, UsageError
    from featstore.heads import TrainedHead, load_head
    from featstore.indexes import FeatureIndex
    from featstore.stages.bench import bench, bench_store
    from featstore.stages.demo import demo
    from featstore.stages.duplicates import find_duplicates
    from featstore.stages.extract import extract
    from featstore.stages.index import index_store
    from featstore.stages.info import describe, describe_store
    from featstore.stages.label import label
    from featstore.stages.predict import predict
    from featstore.stages.queries import Wanted
    from featstore.stages.search import search
    from featstore.stages.train import train
    from featstore.store import FeatureStore
    from featstore.store.compaction import compact
    from featstore.store.repair.verify import verify_store

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
