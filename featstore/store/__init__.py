"""The feature store: a directory of shards, the plan (list of pictures to extract), and side tables. README.md
specifies the format."""

from featstore.store.feature_store import FeatureStore
from featstore.store.features import FeatureArray, FeatureBlocks
from featstore.store.identity import Identity
from featstore.store.shards import Failure
from featstore.store.views import Counts

__all__ = ["Counts", "Failure", "FeatureArray", "FeatureBlocks", "FeatureStore", "Identity"]
