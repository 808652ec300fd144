"""The store's only mutable file, featstore.json: format, identity, and the current epoch (number of compactions)."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.files import atomic
from featstore.store import folders
from featstore.store.identity import Identity

NAME = folders.MANIFEST
LARGEST_EPOCH = 999_999
"""Largest epoch (number of compactions): names of folders and shards contain this number with six digits."""
FORMAT, VERSION = "featstore", 1
LARGEST_UNIT = 1 << 32
"""Largest number of rows in a unit (row range with its own shard)."""
_TRIES, _PAUSE_SECONDS = 20, 0.05
_T = TypeVar("_T")
KNOWN_FEATURES: frozenset[str] = frozenset(
    {"augment", "denylist", "fit", "follow", "history", "layer", "regions", "undo"}
)
"""Format features that this version can read; a store that requires any other format feature is refused."""


@dataclass(frozen=True)
class Manifest:
    """Content of featstore.json.

    Attributes
    ----------
    store_id : str
        Random, never changes.
    identity : Identity
        Identity of the features.
    weights_name : str
        Name of the weights, for people; the identity has their digest.
    epoch : int
        Number of compactions so far; names the folders of plan/ and tables/ that are in use.
    unit_rows : int
        Number of rows in a full unit (row range with its own shard).
    requires : sequence of str
        Names of the format features that a reader of the store must support.
    created : str
        Time of creation (UTC).
    purging : bool
        Whether a purge was begun and is not finished; it has to be finished before anything else is written.
    """

    store_id: str
    identity: Identity
    weights_name: str
    epoch: int
    unit_rows: int
    requires: tuple[str, ...]
    created: str
    purging: bool = False

    @classmethod
    def new(cls, identity: Identity, weights_name: str, unit_rows: int) -> Manifest:
        """Make the manifest of a new store."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(secrets.token_hex(16), identity, weights_name, 0, unit_rows, identity.requires, now)

    def next_epoch(self) -> Manifest:
        """Return the manifest of the next epoch. Raises FeatstoreError if this is the largest epoch."""
        if self.epoch >= LARGEST_EPOCH:
            raise FeatstoreError(f"a store can be compacted {LARGEST_EPOCH:,} times; extract into a new store")
        return replace(self, epoch=self.epoch + 1)

    def requiring(self, *features: str) -> Manifest:
        """Return this manifest with the format ``features`` added to ``requires``."""
        return replace(self, requires=tuple(sorted({*self.requires, *features})))

    def write(self, store: Path, *, exclusive: bool = False) -> None:
        """Write featstore.json. If ``exclusive`` is true, raise FileExistsError if the file exists already."""
        atomic.write_json(store / NAME, self.to_dict(), exclusive=exclusive)

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "requires": list(self.requires),
            "store_id": self.store_id,
            "created": self.created,
            **({"purging": True} if self.purging else {}),
            "epoch": self.epoch,
            "unit_rows": self.unit_rows,
            "weights_name": self.weights_name,
            "fingerprint": self.identity.fingerprint,
            "identity": self.identity.to_dict(),
        }

    @classmethod
    def read(cls, store: Path) -> Manifest:
        """Read a store's manifest.

        Raises UsageError if ``store`` is not a store or needs a newer featstore, DamagedError if the manifest is
        damaged.
        """
        try:
            value = atomic.read_json(store / NAME, follow=False)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            # ValueError: the path contains a null byte. Such a path may come from the content of a damaged or untrusted
            # file.
            raise UsageError(
                f"{store}: no feature store is here ({NAME} is missing); featstore extract makes one"
            ) from None
        if value.get("format") != FORMAT:
            raise DamagedError(f"{store / NAME}: its format is {value.get('format')!r}, not {FORMAT!r}")
        requires = value.get("requires")
        if not isinstance(requires, list):
            raise DamagedError(f"{store / NAME}: the list of what it requires is missing")
        unknown = sorted(set(map(str, requires)) - KNOWN_FEATURES)
        if value.get("version") != VERSION or unknown:
            needs = ", ".join(unknown) or f"format version {value.get('version')}"
            raise UsageError(
                f"{store}: this store needs a newer featstore ({needs}); upgrade with pip install -U image-featstore"
            )
        try:
            identity = Identity.from_dict(value["identity"])
            manifest = cls(
                str(value["store_id"]),
                identity,
                str(value["weights_name"]),
                int(value["epoch"]),
                int(value["unit_rows"]),
                tuple(map(str, requires)),
                str(value["created"]),
                bool(value.get("purging", False)),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DamagedError(f"{store / NAME}: {error!r} is missing or of another type") from None
        if identity.fingerprint != value.get("fingerprint"):
            raise DamagedError(f"{store / NAME}: its identity does not match its fingerprint")
        if not 0 <= manifest.epoch <= LARGEST_EPOCH or not 0 < manifest.unit_rows <= LARGEST_UNIT:
            raise DamagedError(
                f"{store / NAME}: its epoch {manifest.epoch} or its {manifest.unit_rows} rows of a unit cannot be"
            )
        return manifest


def require_no_purge(store: Path) -> None:
    """Raise FeatstoreError if a purge of the store is unfinished."""
    with contextlib.suppress(UsageError):
        if Manifest.read(store).purging:
            raise FeatstoreError(
                f"{store}: a purge of removed pictures was begun and not finished; finish it with: featstore remove {store} --purge"
            )


def settled(store: Path, read: Callable[[Manifest], _T]) -> tuple[Manifest, _T]:
    """Return the manifest and the result of ``read(manifest)``, both of the same epoch, even during a compaction.

    Each compaction begins a new epoch. It switches to the new epoch before it removes files. So
    the manifest is read again after ``read``: if the manifest is unchanged, no file was removed while ``read`` used it.
    If the epoch changed, the result may mix two epochs, and manifest and result are read again.

    Raises the errors of ``read`` if the epoch stayed the same, and FeatstoreError if the epoch keeps changing.
    """
    for attempt in range(_TRIES):
        manifest = Manifest.read(store)
        try:
            found = read(manifest)
        except FileNotFoundError:
            # A running repair moves files aside without changing the epoch: raise only at the second attempt.
            if attempt and Manifest.read(store) == manifest:
                raise
        except FeatstoreError:
            if Manifest.read(store) == manifest:
                raise
        else:
            if Manifest.read(store) == manifest:
                return manifest, found
        time.sleep(_PAUSE_SECONDS * min(attempt, 4))
    raise FeatstoreError(f"{store}: is compacted again and again; run again when that is done")
