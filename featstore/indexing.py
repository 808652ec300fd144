"""The stage from a store to an index file, and the one that brings it up to date."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore import defaults
from featstore.errors import UsageError
from featstore.origin import KEY, generation_number, origin_of_index, origin_of_store, state_of_store
from featstore.splitting import groups_of_equal_bytes
from featstore.store import FeatureStore

if TYPE_CHECKING:
    from featstore.index import FeatureIndex


@dataclass(frozen=True)
class IndexReport:
    """What was built or brought up to date: ``added`` and ``removed`` rows, and all that FeatureIndex.info() tells."""

    store: str
    path: str
    added: int
    removed: int
    info: dict[str, Any]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        told = {**self.info, "identity": without_origin(self.info["identity"])}
        counts = {"added": self.added, "removed_now": self.removed}
        return {**told, "store": self.store, "index": self.path, **counts, "notes": self.notes}


def index_path(store: str | os.PathLike[str]) -> Path:
    """Return the file that the index of ``store`` goes to where none is named: beside the store, under its name."""
    path = Path(os.path.abspath(store))
    return path.with_name(f"{path.name}.faiss")


def without_origin(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the identity alone of what an index keeps under that name."""
    return {name: value for name, value in identity.items() if name != KEY}


def index_store(
    store: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    metric: str = "cosine",
    kind: str = "auto",
    k: int = defaults.NEIGHBOURS,
    recall: float = defaults.RECALL,
    seed: int = defaults.SEED,
    update: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> IndexReport:
    """Build the FAISS index of a store at ``out`` (by default index_path(store)), or with ``update`` bring it up to date.

    Ids in the index are the store's row ids, which are never used again. ``metric``, ``kind``, ``k``, ``recall``: see
    featstore.index.build_index, which also measures the recall on the label. Pictures of equal bytes are held out
    together. An update adds what is new and passes over what is gone, without a rebuild; the measured recall is that
    of the build. Raises UsageError (an empty store, an ``out`` that is no index, an update of another store's index),
    IdentityError, DamagedError.
    """
    from featstore.index import FeatureIndex, build_index

    opened = FeatureStore.open(Path(store))
    path = Path(out) if out is not None else index_path(store)
    notes = state_of_store(opened)
    if not len(opened):
        raise UsageError(f"{opened.path}: has no vectors yet; featstore extract makes them")
    if update:
        index = FeatureIndex.open(path, mmap=False)
        added, removed = _update(index, opened, path)
        if added or removed:
            index.save(path)
        return IndexReport(str(store), str(path), added, removed, index.info(), notes)
    if path.exists() and not is_index(path):
        raise UsageError(f"{path}: is there and is no index; name another file for the index")
    index = build_index(
        opened.stream(),
        opened.ids,
        opened.key_bytes(None),
        metric=metric,  # type: ignore[arg-type]
        kind=kind,  # type: ignore[arg-type]
        k=k,
        recall=recall,
        labels=opened.labels.tolist(),
        groups=groups_of_equal_bytes(opened.sha256),
        fingerprint=opened.fingerprint,
        identity={**opened.spec.to_dict(), KEY: origin_of_store(opened).to_dict()},
        generation=generation_number(opened),
        seed=seed,
        progress=progress,
    )
    index.save(path)
    return IndexReport(str(store), str(path), len(opened), 0, index.info(), notes)


def _update(index: FeatureIndex, store: FeatureStore, path: Path) -> tuple[int, int]:
    origin = origin_of_index(index, str(path))
    origin.identity.check(store.spec, str(path))
    if origin.store_id != store.store_id:
        raise UsageError(
            f"{path}: is the index of another store ({origin.store}), and ids of one store mean nothing in another; "
            f"build a new one with: featstore index {store.path}"
        )
    generation = generation_number(store)
    stale = index.staleness(generation, store.ids)
    index.remove(stale.gone, generation=generation)
    rows = store.rows_of_ids(stale.missing)
    labels = store.labels[rows].tolist()
    if len(rows):
        index.add(store.stream(rows), stale.missing, store.key_bytes(rows), labels=labels, generation=generation)
    return len(rows), len(stale.gone)


def is_index(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is an index that index_store wrote, as far as the names of its files tell."""
    return os.path.isfile(path) and any(os.path.isfile(f"{os.fspath(path)}.featstore{end}") for end in ("", ".next"))


def open_index(path: str | os.PathLike[str]) -> FeatureIndex:
    """Open an index, every byte checked. Raises UsageError where there is none, DamagedError."""
    from featstore.index import FeatureIndex

    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)}: is a folder, not an index; make one with featstore index")
    return FeatureIndex.open(Path(path))


def staleness(index: FeatureIndex, store: FeatureStore) -> str:
    """Return in words how ``store`` has changed since ``index`` was made, "" where it has not."""
    stale = index.staleness(generation_number(store), np.asarray(store.ids))
    if stale.fresh:
        return ""
    return (
        f"the store has changed since the index was made: {len(stale.missing):,} pictures are not in the index, "
        f"{len(stale.gone):,} of the index are gone; bring it up to date with: featstore index {store.path} --update"
    )
