"""Search for nearest neighbours of feature vectors: exact search, FAISS indexes with measured recall, near-duplicates.

Names are imported lazily. Only the module ``files.faiss_io`` imports FAISS.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.indexes.ann_benchmarks import AnnBenchmark, read_ann_benchmark, write_ann_benchmark
    from featstore.indexes.build import build_index
    from featstore.indexes.contract import build_contract, check_contract, check_latency
    from featstore.indexes.duplicates import across_splits, equal_groups, leaks, near_duplicates
    from featstore.indexes.exact import exact_search, leave_one_out_accuracy
    from featstore.indexes.feature_index import FeatureIndex
    from featstore.indexes.files.pair import verify
    from featstore.indexes.recall import Recall, recall_at_k
    from featstore.indexes.rows import About
    from featstore.indexes.staleness import Staleness
    from featstore.indexes.tuning.trials import Contract

_HOMES = {
    "About": "rows",
    "AnnBenchmark": "ann_benchmarks",
    "across_splits": "duplicates",
    "Contract": "tuning.trials",
    "FeatureIndex": "feature_index",
    "Recall": "recall",
    "Staleness": "staleness",
    "build_contract": "contract",
    "build_index": "build",
    "check_contract": "contract",
    "check_latency": "contract",
    "equal_groups": "duplicates",
    "exact_search": "exact",
    "leaks": "duplicates",
    "leave_one_out_accuracy": "exact",
    "near_duplicates": "duplicates",
    "read_ann_benchmark": "ann_benchmarks",
    "recall_at_k": "recall",
    "verify": "files.pair",
    "write_ann_benchmark": "ann_benchmarks",
}

__all__ = [
    "About",
    "AnnBenchmark",
    "Contract",
    "FeatureIndex",
    "Recall",
    "Staleness",
    "across_splits",
    "build_contract",
    "build_index",
    "check_contract",
    "check_latency",
    "equal_groups",
    "exact_search",
    "leaks",
    "leave_one_out_accuracy",
    "near_duplicates",
    "read_ann_benchmark",
    "recall_at_k",
    "verify",
    "write_ann_benchmark",
]


if not TYPE_CHECKING:
    # With this function, type checkers would accept any name. So it is hidden from them, and they read the imports
    # above.

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
