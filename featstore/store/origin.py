"""The origin of a head's or an index's features: their identity, and the store they were read from."""

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
"""Key under which a head's ``meta`` and an index's ``identity`` JSON store the origin."""
STACKED = "stacked"
"""Key of the lists of identities and of origins in the file of a head that was trained on several stores."""


@dataclass(frozen=True)
class Origin:
    """Origin of the features that a head or an index was made from.

    ``identity``: identity of the features. ``weights_name``: name of the weights, for messages and for loading them
    again. ``store``: absolute path of the store at the time of reading. ``store_id``: the store's random id, which
    never changes.
    """

    identity: Identity
    weights_name: str
    store: str
    store_id: str

    def to_dict(self) -> dict[str, str]:
        """Return the origin without its identity as JSON types."""
        return {"weights_name": self.weights_name, "store": self.store, "store_id": self.store_id}

    @classmethod
    def of(cls, identity: Mapping[str, Any], origin: Any, what: str) -> Origin:
        """Rebuild an origin from an identity and ``to_dict``'s result. Raises DamagedError that names ``what`` if a
        value is missing or has a wrong type.
        """
        names = ("weights_name", "store", "store_id")
        if not isinstance(origin, dict) or not all(isinstance(origin.get(name), str) for name in names):
            raise DamagedError(f"{what}: does not say which store it came from; make it again with featstore")
        return cls(Identity.from_dict(dict(identity)), *(origin[name] for name in names))

    def find_store(self, beside: Path | None = None) -> FeatureStore | None:
        """Open and return the store at its recorded path, or else that of the same name in the folder ``beside``.

        The result is None if neither path has a store with the recorded id.
        """
        places = [Path(self.store)] + ([beside / Path(self.store).name] if beside is not None else [])
        for place in places:
            try:
                if Manifest.read(place).store_id == self.store_id:
                    return FeatureStore.open(place)
            except (FeatstoreError, OSError):
                continue
        return None


def origins_in(origin: Any) -> list[dict[str, Any]]:
    """Return the origins in ``origin``, the JSON that a head or an index has under the key "origin".

    Entries that are no dicts are ignored, because the file may be damaged.
    """
    origins = origin.get(STACKED, [origin]) if isinstance(origin, dict) else []
    return [each for each in origins if isinstance(each, dict)] if isinstance(origins, list) else []


def origin_of_store(store: FeatureStore) -> Origin:
    """Return the origin to record in a head or an index that is now made from ``store``."""
    return Origin(store.identity, store.weights_name, os.path.abspath(store.path), store.store_id)


def generation_number(store: FeatureStore) -> int:
    """Return the store's generation as one number that grows with every change of its rows."""
    epoch, segments, finished = store.generation
    return (epoch << 48) + (segments << 24) + finished


def require_vectors(store: FeatureStore) -> None:
    """Raise UsageError with the remedy if ``store`` has no vectors."""
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
    """Return warnings about results computed from ``store``: untrained weights, pending or failed pictures."""
    counts, notes = store.counts, []
    if store.weights_name.startswith("random:"):
        notes.append(
            f"the weights {store.weights_name} are untrained: figures from these features say nothing of what "
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
