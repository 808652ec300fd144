"""Build the index of a store, and update it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.artifacts import index_path, is_index, newer_labels, origin_of_index, without_origin
from featstore.errors import FeatstoreError, UsageError
from featstore.files import atomic
from featstore.store import FeatureStore
from featstore.store.origin import KEY, generation_number, origin_of_store, require_vectors, state_of_store
from featstore.store.past import KEY as PAST
from featstore.store.past import record_of
from featstore.store.splitting import equal_content, groups_of
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.indexes import FeatureIndex
    from featstore.indexes.growth import Standing


_PARTS = 20
"""If one picture has more than 1/20 of all rows (regions), its regions are not held out together."""


@dataclass(frozen=True)
class IndexReport:
    """Result of building or updating an index: ``added``, ``removed`` and ``relabelled`` rows, and FeatureIndex.info().

    ``standing``: whether the index meets its contract (required recall, memory, latency), if it has one.
    """

    store: str
    path: str
    added: int
    removed: int
    info: dict[str, Any]
    standing: Standing
    notes: list[str]
    relabelled: int = 0

    def __repr__(self) -> str:
        return f"<IndexReport {self.path!r}: {counted(self.info['rows'], 'vector')}, {self.info['factory']}, {self.added:,} added, {self.removed:,} removed>"

    def to_dict(self) -> dict[str, Any]:
        """Return the result of building or updating the index as JSON types."""
        told = {**self.info, "identity": without_origin(self.info["identity"])}
        counts = {"added": self.added, "removed_now": self.removed, "relabelled": self.relabelled}
        standing = {"holds": self.standing.holds, "standing": self.standing.text}
        return {**told, "store": self.store, "index": self.path, **counts, **standing, "notes": self.notes}


def index(
    store: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    metric: str | None = None,
    kind: str | None = None,
    recall: float | None = None,
    at: int | None = None,
    memory: int | None = None,
    latency: float | None = None,
    seed: int = defaults.SEED,
    update: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> IndexReport:
    """Build the FAISS index of a store at ``out`` (default: index_path(store)), or update it with ``update``.

    ``recall`` (0..1), ``at`` (neighbours), ``memory`` (bytes of the FAISS file) and ``latency`` (seconds per query)
    form a contract if any of them is given. Several kinds of index are then tried, and the fastest that meets the
    contract is built, see featstore.indexes.build_contract. Without a contract, or if ``kind`` is "flat" or "hnsw",
    featstore.indexes.build_index builds that kind; a graph is tuned to the ``recall`` of ``at`` neighbours. Pictures
    with equal bytes are held out together when recall is measured. Ids in the index are the store's row ids, which are
    never reused.

    An update adds new rows, copies changed labels, and marks removed rows without a rebuild; an exact index deletes
    removed rows (FeatureIndex.purge). If there is a contract and enough new rows, recall is measured again, on new
    pictures before they are added. If recall has dropped, it is measured once more with a search effort (such as
    nprobe) scaled by the growth of the index. The latency of a contract is measured at the build and at each update.
    ``standing`` in the report says whether the contract is met.

    Raises UsageError if the store is empty, if ``out`` is not an index or the index of another store, if no index meets
    the contract, or if another process is writing this index. Raises IdentityError if an updated index has features of
    another identity, DamagedError for a damaged file.
    """
    from featstore.indexes.files.pair import NEXT_SUFFIX

    opened = FeatureStore.open(Path(store))
    path = Path(out) if out is not None else index_path(store)
    atomic.require_place(path, NEXT_SUFFIX)
    notes = state_of_store(opened)
    require_vectors(opened)
    asked = {"recall": recall, "at": at, "memory": memory, "latency": latency}
    asked = {name: value for name, value in asked.items() if value is not None}
    if update:
        settled = [*(name for name, value in (("metric", metric), ("kind", kind)) if value is not None), *asked]
        if settled:
            raise UsageError(
                f"an update keeps what the index was made with; leave out {', '.join(settled)}, or build it anew"
            )
        with atomic.only_writer(path, "index"):
            return _update(opened, path, str(store), seed, notes)
    _require_replaceable(path, opened)
    with atomic.only_writer(path, "index"):
        index = _build(opened, metric or "cosine", kind or "auto", asked, seed, progress)
        index.save(path)
    return _report(index, path, str(store), len(opened), 0, notes)


def _require_replaceable(path: Path, store: FeatureStore) -> None:
    """Raise UsageError if the file at ``path`` is not an index, or is the index of another store."""
    from featstore.indexes.files.pair import load_rows

    if not path.exists():
        return
    if not is_index(path):
        raise UsageError(f"{path}: is there and is no index; name another file for the index")
    try:
        origin = load_rows(path)[1].identity.get(KEY)
    except FeatstoreError:
        # The index is damaged: building it again is the remedy.
        return
    own = origin_of_store(store)
    # A store that was deleted and extracted again has another id, but the same path.
    if isinstance(origin, dict) and origin.get("store_id") != own.store_id and origin.get("store") != own.store:
        raise UsageError(
            f"{path}: is the index of another store ({origin.get('store')}); name another file, or delete it first"
        )


def _report(
    index: FeatureIndex, path: Path, store: str, added: int, removed: int, notes: list[str], relabelled: int = 0
) -> IndexReport:
    from featstore.indexes.growth import standing

    info = index.info()
    return IndexReport(store, str(path), added, removed, info, standing(info, path.stat().st_size), notes, relabelled)


def _build(
    store: FeatureStore,
    metric: str,
    kind: str,
    asked: Mapping[str, Any],
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> FeatureIndex:
    from featstore.indexes import About, Contract, build_contract, build_index

    about: dict[str, Any] = {
        "metric": metric,
        "about": About(store.labels.tolist(), store.identity, _origin(store), generation_number(store)),
        "groups": _groups(store),
        "seed": seed,
        "progress": progress,
    }
    if asked and kind == "auto":
        return build_contract(store.stream(), store.ids, store._key_bytes(None), Contract(**asked), **about)
    if asked.keys() & {"memory", "latency"}:
        raise UsageError(f"memory and latency choose the kind of index; leave out the kind {kind!r}")
    about |= {"k": asked.get("at", defaults.NEIGHBOURS), "recall": asked.get("recall", defaults.RECALL)}
    return build_index(store.stream(), store.ids, store._key_bytes(None), kind=kind, **about)  # type: ignore[arg-type]


def _groups(store: FeatureStore) -> NDArray[np.int64]:
    """Return a group number (n,) for each row; to measure recall, the rows of a group are held out together.

    A group is a set of equal pictures, or the regions of a picture. Only a small part of the rows may be held out. If
    the regions of one picture are too large a part (see _PARTS), regions are therefore held out one by one.
    """
    groups = groups_of(store, np.arange(len(store)))
    if store.has_regions and np.bincount(groups).max(initial=0) > len(store) // _PARTS:
        return equal_content(store)
    return groups


def _origin(store: FeatureStore) -> dict[str, Any]:
    """Return the origin to record in the index: the store, and its state now (see FeatureStore.open, ``at``)."""
    return {**origin_of_store(store).to_dict(), PAST: [record_of(store)]}


def _update(store: FeatureStore, path: Path, name: str, seed: int, notes: list[str]) -> IndexReport:
    from featstore.indexes import FeatureIndex, check_latency

    index = FeatureIndex.open(path, mmap=False)
    origin = origin_of_index(index, str(path))
    origin.identity.check(store.identity, str(path))
    if origin.store_id != store.store_id:
        raise UsageError(
            f"{path}: is the index of another store ({origin.store}), and ids of one store mean nothing in another; "
            f"build a new one with: featstore index {store.path}"
        )
    generation = generation_number(store)
    labels = newer_labels(index.info()["identity"].get(KEY), store)
    stale = index.staleness(generation, store.ids, labels)
    index.remove(stale.gone, generation=generation)
    if len(stale.relabelled):
        index.relabel(store.ids, labels or [])
    rows = store.rows_of_ids(stale.missing)
    if len(rows):
        _grow(index, store, rows, generation, seed)
    purged = index.purge()
    # Record the new label version even if no label of the index's rows changed.
    changed = bool(purged) or not stale.fresh or labels is not None
    contract = index.info()["contract"] or {}
    if contract.get("latency") is not None and (changed or contract.get("latency_seconds") is None):
        check_latency(index, store.stream())
        changed = True
    if changed:
        index.set_origin(_origin(store))
        index.save(path)
    return _report(index, path, name, len(rows), len(stale.gone), notes, len(stale.relabelled))


def _grow(index: FeatureIndex, store: FeatureStore, rows: NDArray[np.int64], generation: int, seed: int) -> None:
    """Add the store's ``rows`` (m,); if there is a contract, first measure recall with some of them as queries."""
    from featstore.indexes import check_contract
    from featstore.indexes.build import grown
    from featstore.indexes.growth import draw_queries, judge

    def add(part: NDArray[np.int64]) -> None:
        if len(part):
            labels = store.labels[part].tolist()
            keys = store._key_bytes(part)
            index.add(store.stream(part), store.ids[part], keys, labels=labels, generation=generation)

    info = index.info()
    asking = rows[:0]
    groups = _groups(store)
    if info["contract"] is not None and not index.exact:
        new = np.zeros(len(store), np.bool_)
        new[rows] = True
        asking = draw_queries(new, groups, seed)
    add(np.setdiff1d(rows, asking))
    if not len(asking):
        return
    others = np.setdiff1d(np.arange(len(store)), asking)
    vectors, queries, goal = store.stream(others), store.features(rows=asking), float(info["contract"]["recall"])
    effort = index.effort
    recall = check_contract(index, queries, vectors, store.ids[others], groups=groups[asking])
    if judge(recall, goal) is not True:
        # Scale the search effort with the number of rows, at most once: otherwise each update could raise the effort
        # further.
        index.effort = grown(effort, max(1.0, (len(index) + len(asking)) / max(1, info["measured_rows"])))
        recall = check_contract(index, queries, vectors, store.ids[others], groups=groups[asking])
    add(asking)
    if judge(recall, goal) is None:
        index.effort = effort
    else:
        index.set_recall(recall)


def export_store(
    store: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    metric: str = "cosine",
    k: int = defaults.EXPORTED_NEIGHBOURS,
    seed: int = defaults.SEED,
) -> int:
    """Write a store's vectors as an ann-benchmarks file at ``path``, on which other index libraries can be measured.

    Up to ``defaults.CHECK_QUERIES`` pictures, at most a tenth, become test rows (queries); pictures with the same bytes
    are left out of the train rows. Returns the number of test rows. Raises UsageError for too few pictures or an
    unknown metric, DamagedError if the store is damaged, OSError if writing fails.
    """
    from featstore.indexes import write_ann_benchmark
    from featstore.indexes.tuning.truth import hold_out

    opened = FeatureStore.open(Path(store))
    held_out = hold_out(len(opened), defaults.CHECK_QUERIES, seed, _groups(opened))
    if not len(held_out.queries):
        raise UsageError(f"{opened.path}: has {len(opened):,} vectors; some ten are needed to hold any out for a test")
    write_ann_benchmark(
        path,
        opened.stream(),
        held_out.queries,
        metric=metric,  # type: ignore[arg-type]
        k=k,
        withheld=held_out.withheld,
    )
    return len(held_out.queries)
