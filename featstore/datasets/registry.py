"""The data sets that can be downloaded by name, read from registry.toml."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Archive:
    """A published archive of a data set, and how to unpack it.

    ``digest_from``: who published size and SHA-256. ``inside``: the folder in the archive from which files are
    unpacked. ``to``: the subfolder of the data set's folder that gets the files; "" means the data set's folder itself.
    """

    url: str
    size: int
    sha256: str
    digest_from: str
    inside: str
    to: str

    @property
    def name(self) -> str:
        """File name of the archive: the end of its URL."""
        return urlsplit(self.url).path.rpartition("/")[2]


@dataclass(frozen=True)
class Dataset:
    """A data set that can be downloaded. ``layout``: the meaning of its folders after unpacking, such as class/file."""

    name: str
    title: str
    layout: str
    licence: str
    home: str
    archives: tuple[Archive, ...]

    @property
    def size(self) -> int:
        """Total size of the data set's archives in bytes."""
        return sum(archive.size for archive in self.archives)


@functools.cache
def registry() -> Mapping[str, Dataset]:
    """Return all data sets of the registry by name."""
    text = resources.files("featstore.datasets").joinpath("registry.toml").read_text(encoding="utf-8")
    found = {}
    for name, entry in tomllib.loads(text).items():
        archives = tuple(Archive(**archive) for archive in entry.pop("archives"))
        found[name] = Dataset(name, archives=archives, **entry)
    return MappingProxyType(found)
