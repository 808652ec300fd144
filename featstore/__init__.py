"""featstore: extract feature vectors of pictures once, keep them in a store, train heads and build indexes on them.

    import featstore

    featstore.extract("pictures/", "my.store")
    store = featstore.FeatureStore.open("my.store")
    featstore.train("my.store").report.accuracy

Every name is loaded at its first use: ``import featstore`` itself imports no dependency.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from featstore.embed.transformer import ImageEmbedder
    from featstore.errors import DamagedError, FeatstoreError, IdentityError, UsageError
    from featstore.heads import TrainedHead, load_head
    from featstore.indexes import FeatureIndex
    from featstore.stages.backbones import list_backbones, list_layers
    from featstore.stages.bench import bench, bench_store
    from featstore.stages.compact import compact
    from featstore.stages.compare import compare
    from featstore.stages.demo import demo
    from featstore.stages.duplicates import find_duplicates
    from featstore.stages.export import export
    from featstore.stages.extract import extract
    from featstore.stages.failures import list_failures
    from featstore.stages.finetune import finetune
    from featstore.stages.import_ import import_vectors
    from featstore.stages.index import index
    from featstore.stages.info import info
    from featstore.stages.label import label
    from featstore.stages.predict import predict, predict_by_text
    from featstore.stages.queries import Query
    from featstore.stages.remove import remove
    from featstore.stages.repair import repair
    from featstore.stages.sample import write_sample
    from featstore.stages.search import QueryResult, search
    from featstore.stages.train import train
    from featstore.stages.units import units
    from featstore.stages.verify import verify
    from featstore.store import FeatureArray, FeatureStore

_HOMES = {
    "DamagedError": "errors",
    "FeatstoreError": "errors",
    "FeatureArray": "store",
    "FeatureIndex": "indexes",
    "FeatureStore": "store",
    "IdentityError": "errors",
    "ImageEmbedder": "embed.transformer",
    "Query": "stages.queries",
    "QueryResult": "stages.search",
    "TrainedHead": "heads",
    "UsageError": "errors",
    "bench": "stages.bench",
    "bench_store": "stages.bench",
    "compact": "stages.compact",
    "compare": "stages.compare",
    "demo": "stages.demo",
    "export": "stages.export",
    "extract": "stages.extract",
    "find_duplicates": "stages.duplicates",
    "finetune": "stages.finetune",
    "import_vectors": "stages.import_",
    "index": "stages.index",
    "info": "stages.info",
    "label": "stages.label",
    "list_backbones": "stages.backbones",
    "list_failures": "stages.failures",
    "list_layers": "stages.backbones",
    "load_head": "heads",
    "predict": "stages.predict",
    "predict_by_text": "stages.predict",
    "remove": "stages.remove",
    "repair": "stages.repair",
    "search": "stages.search",
    "train": "stages.train",
    "units": "stages.units",
    "verify": "stages.verify",
    "write_sample": "stages.sample",
}

__all__ = [
    "DamagedError",
    "FeatstoreError",
    "FeatureArray",
    "FeatureIndex",
    "FeatureStore",
    "IdentityError",
    "ImageEmbedder",
    "Query",
    "QueryResult",
    "TrainedHead",
    "UsageError",
    "__version__",
    "bench",
    "bench_store",
    "compact",
    "compare",
    "demo",
    "export",
    "extract",
    "find_duplicates",
    "finetune",
    "import_vectors",
    "index",
    "info",
    "label",
    "list_backbones",
    "list_failures",
    "list_layers",
    "load_head",
    "predict",
    "predict_by_text",
    "remove",
    "repair",
    "search",
    "train",
    "units",
    "verify",
    "write_sample",
]


if not TYPE_CHECKING:
    # Hide __getattr__ from type checkers, so that they report names that are not imported above.

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
