"""Known data sets: their registry, download, and unpacking."""

from featstore.datasets.fetching import FetchProgress, fetch
from featstore.datasets.registry import Archive, Dataset, registry

__all__ = ["Archive", "Dataset", "FetchProgress", "fetch", "registry"]
