"""Detect and open the store, head, index or model at a path; find its origin, and how its store has changed since."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featstore.errors import DamagedError, UsageError
from featstore.files import sealed
from featstore.files.model_folder import is_model
from featstore.store import FeatureStore
from featstore.store.as_source import is_store
from featstore.store.origin import KEY, STACKED, Origin, generation_number
from featstore.store.past import KEY as PAST
from featstore.store.past import records_in
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.heads import TrainedHead
    from featstore.indexes import FeatureIndex, Staleness


_HEAD_FIRST = "make one with featstore train; the head comes first: featstore predict HEAD PICTURES"
_INDEX_FIRST = "make one with featstore index; the index comes first: featstore search INDEX PICTURES"


def kind_of(path: str | os.PathLike[str]) -> Literal["store", "head", "index", "model"]:
    """Return the kind of artifact at ``path``; a folder that is no model counts as a "store".

    Raises UsageError for other files.
    """
    if os.path.isdir(path):
        return "model" if is_model(path) and not is_store(path) else "store"
    if is_index(path):
        return "index"
    try:
        sealed.read_header(Path(path), "head")
    except FileNotFoundError:
        raise UsageError(f"{os.fspath(path)}: does not exist") from None
    except DamagedError as error:
        raise UsageError(f"{os.fspath(path)}: is no store, head or index that can be read ({error})") from None
    return "head"


def open_head(
    path: str | os.PathLike[str], trust: Sequence[str] | None = None, tasks: Sequence[str] = ("classes",)
) -> TrainedHead:
    """Return the head at ``path``, a head file or a model folder.

    Raises UsageError if there is no head, DamagedError if it is damaged.

    ``tasks``: what the caller can use (see heads.headfile.ALL_TASKS); a head of another task raises UsageError.

    ``trust``: names of the Python types that may be loaded if the classifier comes from another package (see
    TrainedHead.trusting). With None no such classifier is loaded; the head can then only be described.
    """
    from featstore.artifacts.model import head_of
    from featstore.heads import load_head

    if is_model(path):
        head = head_of(path)
        return head if trust is None else head.trusting(trust)
    try:
        if not sealed.begins_like_one(Path(path)):
            raise UsageError(f"{os.fspath(path)}: is no head, or its first bytes are damaged; {_HEAD_FIRST}")
        head = load_head(Path(path))
    except FileNotFoundError:
        raise UsageError(f"{os.fspath(path)}: there is no such head; make one with featstore train") from None
    except IsADirectoryError:
        raise UsageError(f"{os.fspath(path)}: is a folder, not a head; {_HEAD_FIRST}") from None
    if head.task not in tasks:
        raise UsageError(f"{os.fspath(path)}: predicts {head.task}; this needs a head of {' or '.join(tasks)}")
    return head if trust is None else head.trusting(trust)


def origins_of_head(head: TrainedHead, what: str) -> list[Origin]:
    """Return the origins of a head's features: one store, or several with concatenated features.

    Raises DamagedError, whose message names ``what``, if the head has no origin.
    """
    origins = head.meta.get(KEY)
    if STACKED not in head.identity:
        return [Origin.of(head.identity, origins, what)]
    identities, known = head.identity[STACKED], origins.get(STACKED) if isinstance(origins, dict) else None
    if not isinstance(identities, list) or not isinstance(known, list) or not len(identities) == len(known) > 1:
        raise DamagedError(f"{what}: does not say which stores it came from; make it again with featstore")
    pairs = zip(identities, known, strict=True)
    return [Origin.of(identity if isinstance(identity, dict) else {}, origin, what) for identity, origin in pairs]


def index_path(store: str | os.PathLike[str]) -> Path:
    """Return the default path of the index of ``store``: the path of the store with ".faiss" appended."""
    path = Path(os.path.abspath(store))
    return path.with_name(f"{path.name}.faiss")


def is_index(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is an index that featstore.index wrote, judged by the names of its files."""
    return os.path.isfile(path) and any(os.path.isfile(f"{os.fspath(path)}.featstore{end}") for end in ("", ".next"))


def open_index(path: str | os.PathLike[str]) -> FeatureIndex:
    """Open an index after checking every byte.

    Raises UsageError if there is no index; DamagedError if it is damaged.
    """
    from featstore.indexes import FeatureIndex

    if os.path.isdir(path):
        raise UsageError(f"{os.fspath(path)}: is a folder, not an index; {_INDEX_FIRST}")
    if os.path.isfile(path) and not is_index(path):
        name = f"{os.path.basename(os.fspath(path))}.featstore"
        raise UsageError(
            f"{os.fspath(path)}: is no index, or its side file {name} is missing (copy both); {_INDEX_FIRST}"
        )
    return FeatureIndex.open(Path(path))


def origin_of_index(index: FeatureIndex, what: str) -> Origin:
    """Return the origin (store, backbone) of an index.

    Raises DamagedError, whose message names ``what``, if the index has no origin.
    """
    identity = index.info()["identity"]
    origin = identity.pop(KEY, None)
    return Origin.of(identity, origin, what)


def without_origin(identity: dict[str, Any]) -> dict[str, Any]:
    """Return the ``identity`` that an index records, without its entry KEY, which is the origin of the index."""
    return {name: value for name, value in identity.items() if name != KEY}


def staleness(index: FeatureIndex, store: FeatureStore, path: str | os.PathLike[str] | None = None) -> str:
    """Describe how ``store`` changed since ``index`` was made; "" if it did not.

    ``path``: the path of the index; the description contains the command that updates this index.
    """
    stale = compare_index(index, store)
    if stale.fresh:
        return ""
    changes = []
    if len(stale.missing) or len(stale.gone):
        changes.append(
            f"{counted(len(stale.missing), 'picture is', 'pictures are')} not in the index, "
            f"{counted(len(stale.gone), 'of the index is', 'of the index are')} gone"
        )
    if len(stale.relabelled):
        changes.append(f"{counted(len(stale.relabelled), 'picture has', 'pictures have')} another label")
    return (
        f"the store has changed since the index was made: {', '.join(changes)}; bring it up to date with: "
        f"{shlex.join(update_command(store.path, path))}"
    )


def compare_index(index: FeatureIndex, store: FeatureStore) -> Staleness:
    """Return the differences between an index and its store: missing, removed and relabelled rows.

    Labels are compared only if the store's label version has changed since the index was made.
    """
    labels = newer_labels(index.info()["identity"].get(KEY), store)
    return index.staleness(generation_number(store), np.asarray(store.ids), labels)


def newer_labels(origin: Any, store: FeatureStore) -> list[str | None] | None:
    """Return the labels (n,) of the store's rows; None if an index with this ``origin`` already has these labels.

    An index has these labels if ``origin`` records the store's current label version. Also returns None if the store's
    labels cannot be read.
    """
    records = records_in(origin.get(PAST)) if isinstance(origin, dict) else []
    try:
        if records and records[0].get("label_version") == store._tables.version:
            return None
        return list(store.labels.tolist())
    except UsageError:
        # The store takes its labels from another store (option --follow), which does not exist any more.
        return None


def update_command(store: str | os.PathLike[str], index: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the command, as a list of words, that updates ``index`` (default: the index at ``index_path(store)``)."""
    there = index is None or os.path.abspath(index) == os.fspath(index_path(store))
    return ["featstore", "index", os.fspath(store), *([] if there else ["--out", os.fspath(index or "")]), "--update"]
