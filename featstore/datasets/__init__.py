"""Known data sets: where they are published, how they are downloaded, and how their archives are unpacked."""

from featstore.datasets.fetching import FetchProgress, fetch
from featstore.datasets.registry import Archive, Dataset, registry

__all__ = ["Archive", "Dataset", "FetchProgress", "fetch", "registry"]
