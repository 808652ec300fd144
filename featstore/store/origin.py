"""Where the features behind a head or an index came from: their identity, and the store that they were read from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.store import FeatureStore, Identity
from featstore.store.manifest import Manifest
from featstore.text import counted

if TYPE_CHECKING:
    pass

KEY = "origin"
"""Its place in a head's ``meta`` and, beside the identity's own fields, in an index's ``identity``."""
STACKED = "stacked"
"""In a head on several stores, the place of their identities in its ``identity`` and of their origins in KEY's."""


@dataclass(frozen=True)
class Origin:
    """``identity`` of the features; ``weights_name``, for people and for loading them again; the ``store``'s absolute
    path when it was read, and its ``store_id``, which never changes."""

    identity: Identity
    weights_name: str
    store: str
    store_id: str

    def to_dict(self) -> dict[str, str]:
        """Return all but the identity, as JSON."""
        return {"weights_name": self.weights_name, "store": self.store, "store_id": self.store_id}

    @classmethod
    def of(cls, identity: Mapping[str, Any], origin: Any, what: str) -> Origin:
        """Rebuild an origin from an identity and what to_dict returned. Raises DamagedError, naming ``what``."""
        names = ("weights_name", "store", "store_id")
        if not isinstance(origin, dict) or not all(isinstance(origin.get(name), str) for name in names):
            raise DamagedError(f"{what}: does not say which store it came from; make it again with featstore")
        return cls(Identity.from_dict(dict(identity)), *(origin[name] for name in names))

    def find_store(self, beside: Path | None = None) -> FeatureStore | None:
        """Return the store, opened: at its path, else under its name in ``beside``; None where it is in neither."""
        places = [Path(self.store)] + ([beside / Path(self.store).name] if beside is not None else [])
        for place in places:
            try:
                if Manifest.read(place).store_id == self.store_id:
                    return FeatureStore.open(place)
            except (FeatstoreError, OSError):
                continue
        return None


def origin_of_store(store: FeatureStore) -> Origin:
    """Return the origin of what is made from ``store`` now."""
    return Origin(store.spec, store.manifest.weights_name, os.path.abspath(store.path), store.store_id)


def generation_number(store: FeatureStore) -> int:
    """Return the store's generation as one number that grows with every change of its rows."""
    epoch, segments, finished = store.generation
    return (epoch << 48) + (segments << 24) + finished


def require_vectors(store: FeatureStore) -> None:
    """Raise UsageError, with what to do about it, where ``store`` has no vectors."""
    counts = store.counts
    if len(store):
        return
    if counts.pending:
        state = f"{counts.pending:,} of {counts.images:,} pictures are pending; run the same featstore extract again"
    elif counts.failures:
        state = f"none of its {counts.failures:,} pictures could be read (featstore failures {store.path} tells why)"
    else:
        state = "it is empty; featstore extract fills it"
    raise UsageError(f"{store.path}: has no vectors yet: {state}")


def state_of_store(store: FeatureStore) -> list[str]:
    """Return, in words, what a reader of figures from ``store`` has to know: untrained weights, pictures that are
    pending or failed."""
    counts, notes = store.counts, []
    if store.manifest.weights_name.startswith("random:"):
        notes.append(
            f"the weights {store.manifest.weights_name} are untrained: figures from these features say nothing of what "
            "transfer learning can do"
        )
    if counts.pending:
        notes.append(
            f"the store is unfinished: {counts.pending:,} of {counts.images:,} pictures are pending and take no part; "
            "run featstore extract again"
        )
    if counts.failures:
        notes.append(f"{counted(counts.failures, 'picture')} could not be read: left out (see featstore failures)")
    return notes
