"""Files of the Hugging Face hub: from its cache on this machine, else downloaded. Only safetensors files are taken."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from featstore.errors import FeatstoreError, UsageError


def cached(repository: str, filename: str) -> Path | None:
    """Return the file in the hub's cache, None if it is not there or the package huggingface_hub is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repository, filename)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def fetch(backbone: str, weights: str, repository: str, filename: str) -> Path:
    """Return the file from the hub's cache, or download it to the cache.

    Raises UsageError if the file is not of safetensors, FeatstoreError if the download fails.
    """
    otherwise = "name a file of weights by --weights FILE.safetensors, or use random:SEED for trials"
    if not filename.endswith(".safetensors"):
        raise UsageError(
            f"the hub holds the weights {weights} of {backbone} as {filename}, which could run code; {otherwise}"
        )
    file = cached(repository, filename)
    if file is not None:
        return file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from huggingface_hub import hf_hub_download
            from huggingface_hub.utils import disable_progress_bars

            disable_progress_bars()
            # Its log of retries would be printed beside our one-line error.
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
            return Path(hf_hub_download(repository, filename))
    except Exception as error:  # the hub's client raises errors of several packages
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise FeatstoreError(
            f"the weights {weights} of {backbone} are not on this machine and cannot be had from the hub ({reason}); "
            f"put them into its cache from {repository}, or {otherwise}"
        ) from None
