"""Erase removed pictures from an index or a head by writing it again without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featstore.artifacts import open_head
from featstore.artifacts.lineage import Artifact
from featstore.errors import FeatstoreError, UsageError
from featstore.store import FeatureStore
from featstore.store.denylist import Denylist
from featstore.store.targets import ALL_TASKS, CLASSES, Task
from featstore.text import to_bytes

if TYPE_CHECKING:
    from featstore.heads import TrainedHead


def rewrite(artifact: Artifact, store: FeatureStore, denylist: Denylist) -> bool:
    """Write an index or a head of ``store`` again if it contains rows, keys or labels of removed pictures.

    ``denylist``: the removed pictures. Returns whether the file was written. Raises FeatstoreError, which names the
    remedy, if the file cannot be written without the removed pictures; OSError if writing fails.
    """
    if artifact.kind == "index":
        return _rewrite_index(artifact.path, store, denylist)
    if artifact.kind == "head" and not _of_run(artifact) and _keeps(artifact.path, store, denylist):
        return _rewrite_head(artifact.path)
    return False


def held_by(artifact: Artifact) -> str:
    """Return the reason why an artifact may still contain data of removed pictures, else "".

    Pages, models and unfinished fine-tunings are not rewritten.
    """
    if artifact.kind == "page":
        return "a page may show the pictures: delete it, or make it again with the command that made it"
    if artifact.kind == "model":
        return "its network may have been trained on the pictures: delete it, or fine-tune it again"
    if _of_run(artifact):
        return "an unfinished fine-tuning may have learnt from the pictures: delete the folder, or begin the run anew"
    return ""


def _of_run(artifact: Artifact) -> bool:
    """Return whether the artifact is in the folder of an unfinished fine-tuning."""
    return artifact.path.parent.suffix == ".run"


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
    head = open_head(path, tasks=ALL_TASKS)
    lost = set(head.classes) - _labels(head, store)
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
    return bool(denied.any()) and (head.model.keeps_rows or not lost.isdisjoint(_labels(head, then, denied)))


def _labels(head: TrainedHead, store: FeatureStore, rows: NDArray[np.bool_] | None = None) -> set[str]:
    """Return the labels in ``store`` that correspond to the outputs of ``head``; ``rows``: mask (n,) of the rows to
    look at.
    """
    chosen = np.ones(len(store), bool) if rows is None else rows
    if head.task == CLASSES:
        return {str(label) for label in store.labels[chosen].tolist() if label is not None}
    try:
        task = Task.recorded(head.meta.get("task"))
        targets = None if task is None else task.read(store)
    except (UsageError, ValueError):
        targets = None
    return set() if targets is None else set(targets.names(np.flatnonzero(chosen & targets.usable)))


def _rewrite_head(path: Path) -> bool:
    from featstore.stages.train import retrain

    try:
        retrain(path)
    except UsageError as error:
        raise FeatstoreError(
            f"keeps what it learnt from removed pictures, and cannot be trained without them ({error}): delete it"
        ) from None
    return True
