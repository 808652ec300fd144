"""Safetensors files of the Hugging Face hub: from the hub's local cache, or downloaded. Other files are refused."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

from featstore.errors import FeatstoreError, Notice, UsageError


def cached(repository: str, filename: str) -> Path | None:
    """Return a file of the hub's local cache; None if the cache lacks the file or huggingface_hub is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repository, filename)
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def tell_download(what: str, origin: str, folder: str | os.PathLike[str]) -> None:
    """Warn the user (Notice) that ``what`` is downloaded from ``origin`` and kept in ``folder``."""
    warnings.warn(f"downloading {what} from {origin}; kept in {os.fspath(folder)}", Notice, stacklevel=2)


def fetch(backbone: str, weights: str, repository: str, filename: str) -> Path:
    """Return a file from the hub's local cache, after downloading it if the cache lacks it.

    Raises UsageError if the file is not a safetensors file, FeatstoreError if the download fails.
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
            from huggingface_hub.constants import HF_HUB_CACHE
            from huggingface_hub.utils import disable_progress_bars

            if not sys.stderr.isatty():
                disable_progress_bars()
            # huggingface_hub logs each retry; the user should see only the final error message.
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        tell_download(f"the weights {weights} of {backbone}", f"{repository} on the Hugging Face hub", HF_HUB_CACHE)
        return Path(hf_hub_download(repository, filename))
    except Notice:
        raise  # The notice of the download is an exception if the user turned warnings into errors.
    except Exception as error:  # huggingface_hub raises errors of several packages.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise FeatstoreError(
            f"the weights {weights} of {backbone} are not on this machine and cannot be had from the hub ({reason}); "
            f"put them into its cache from {repository}, or {otherwise}"
        ) from None
