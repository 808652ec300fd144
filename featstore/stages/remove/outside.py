"""Erase removed pictures from an index or a head by writing it again without them."""

from __future__ import annotations

from pathlib import Path

from featstore.artifacts import open_head
from featstore.artifacts.lineage import Artifact
from featstore.errors import FeatstoreError, UsageError
from featstore.store import FeatureStore
from featstore.store.denylist import Denylist
from featstore.text import to_bytes


def rewrite(artifact: Artifact, store: FeatureStore, denylist: Denylist) -> bool:
    """Write an index or a head of ``store`` again if it contains rows, keys or labels of removed pictures.

    ``denylist``: the removed pictures. Returns whether the file was written. Raises FeatstoreError, which names the
    remedy, if the file cannot be written without the removed pictures; OSError.
    """
    if artifact.kind == "index":
        return _rewrite_index(artifact.path, store, denylist)
    if artifact.kind == "head" and _keeps(artifact.path, store, denylist):
        return _rewrite_head(artifact.path)
    return False


def held_by(artifact: Artifact) -> str:
    """Return why a page or a model, which are not rewritten, may still hold something of removed pictures, else ""."""
    if artifact.kind == "page":
        return "a page may show the pictures: delete it, or make it again with the command that made it"
    if artifact.kind == "model":
        return "its network may have been trained on the pictures: delete it, or fine-tune it again"
    return ""


def _rewrite_index(path: Path, store: FeatureStore, denylist: Denylist) -> bool:
    from featstore.files import atomic
    from featstore.indexes import FeatureIndex
    from featstore.indexes.files.pair import NEXT_SUFFIX
    from featstore.stages.index import index as build

    opened = FeatureIndex.open(path, mmap=False)
    denied = opened.ids_of_keys(denylist.denies_keys)
    half_saved = path.with_name(path.name + NEXT_SUFFIX).exists()
    if not len(denied) and not half_saved:
        return False
    info = opened.info()
    if opened.exact:
        with atomic.only_writer(path, "index"):
            opened.remove(denied)
            opened.purge()
            opened.save(path)
        return True
    # An approximate index (a graph, or codes trained on the rows) is built again from the remaining rows.
    contract = info["contract"]
    if contract is None:
        build(store.path, out=path, metric=info["metric"], kind="hnsw", at=info["recall"]["k"])
    else:
        asked = {name: contract[name] for name in ("recall", "at", "memory", "latency")}
        build(store.path, out=path, metric=info["metric"], **asked)
    return True


def _keeps(path: Path, store: FeatureStore, denylist: Denylist) -> bool:
    """Return whether the head may contain a row of a removed picture, or a label that only removed pictures had."""
    head = open_head(path)
    lost = set(head.classes) - set(store.classes)
    if not head.model.keeps_rows and not lost:
        return False
    try:
        then = FeatureStore.open(store.path, at=head.meta, missing="skip")
    except UsageError:
        # The head does not record the rows it was trained on: assume that it contains removed rows.
        return True
    if then.missing.count:
        return True
    denied = denylist.denies_keys([to_bytes(key) for key in then.keys])
    return bool(denied.any()) and (head.model.keeps_rows or not lost.isdisjoint(then.labels[denied].tolist()))


def _rewrite_head(path: Path) -> bool:
    from featstore.stages.train import retrain

    try:
        retrain(path)
    except UsageError as error:
        raise FeatstoreError(
            f"keeps what it learnt from removed pictures, and cannot be trained without them ({error}): delete it"
        ) from None
    return True
