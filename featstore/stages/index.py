"""The stage from a store to an index file, and the one that brings it up to date."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.artifacts import index_path, is_index, origin_of_index, without_origin
from featstore.errors import UsageError
from featstore.files import atomic
from featstore.store import FeatureStore
from featstore.store.origin import KEY, generation_number, origin_of_store, require_vectors, state_of_store
from featstore.store.splitting import groups_of_equal_bytes
from featstore.text import counted

if TYPE_CHECKING:
    from featstore.indexes import FeatureIndex
    from featstore.indexes.growth import Standing


@dataclass(frozen=True)
class IndexReport:
    """What was built or brought up to date: ``added`` and ``removed`` rows, and all that FeatureIndex.info() tells.

    ``standing``: whether the index keeps its contract, if it has one.
    """

    store: str
    path: str
    added: int
    removed: int
    info: dict[str, Any]
    standing: Standing
    notes: list[str]

    def __repr__(self) -> str:
        return f"<IndexReport {self.path!r}: {counted(self.info['rows'], 'vector')}, {self.info['factory']}, {self.added:,} added, {self.removed:,} removed>"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        told = {**self.info, "identity": without_origin(self.info["identity"])}
        counts = {"added": self.added, "removed_now": self.removed}
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
    """Build the FAISS index of a store at ``out`` (by default index_path(store)), or with ``update`` bring it up to date.

    Where any of ``recall`` (0..1), ``at`` (neighbours), ``memory`` (bytes of the FAISS file) and ``latency`` (seconds a
    query) is given, they are a contract, and several kinds of index are tried for the fastest that keeps it: see
    featstore.indexes.build_contract. Else, and where ``kind`` names "flat" or "hnsw", featstore.indexes.build_index builds
    that one, a graph tuned to ``recall`` ``at`` so many neighbours. Pictures of equal bytes are held out together.
    Ids in the index are the store's row ids, which are never used again.

    An update adds what is new and passes over what is gone, without a rebuild; from an exact index it deletes what is
    gone (FeatureIndex.purge). Where there is a contract and enough is
    new, recall is measured again, on new pictures before they are added, and where it has sunk, with an effort raised as
    the rows have grown; ``standing`` of the report says whether the contract holds.

    Raises UsageError (an empty store, an ``out`` that is no index, an update of another store's index, a contract that
    nothing keeps, another process that is writing this index), IdentityError, DamagedError.
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
    if path.exists() and not is_index(path):
        raise UsageError(f"{path}: is there and is no index; name another file for the index")
    with atomic.only_writer(path, "index"):
        index = _build(opened, metric or "cosine", kind or "auto", asked, seed, progress)
        index.save(path)
    return _report(index, path, str(store), len(opened), 0, notes)


def _report(index: FeatureIndex, path: Path, store: str, added: int, removed: int, notes: list[str]) -> IndexReport:
    from featstore.indexes.growth import standing

    info = index.info()
    return IndexReport(store, str(path), added, removed, info, standing(info, path.stat().st_size), notes)


def _build(
    store: FeatureStore,
    metric: str,
    kind: str,
    asked: Mapping[str, Any],
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> FeatureIndex:
    from featstore.indexes import Contract, build_contract, build_index

    about: dict[str, Any] = {
        "metric": metric,
        "labels": store.labels.tolist(),
        "groups": groups_of_equal_bytes(store.sha256),
        "fingerprint": store.fingerprint,
        "identity": {**store.spec.to_dict(), KEY: origin_of_store(store).to_dict()},
        "generation": generation_number(store),
        "seed": seed,
        "progress": progress,
    }
    if asked and kind == "auto":
        return build_contract(store.stream(), store.ids, store.key_bytes(None), Contract(**asked), **about)
    if asked.keys() & {"memory", "latency"}:
        raise UsageError(f"memory and latency choose the kind of index; leave out the kind {kind!r}")
    about |= {"k": asked.get("at", defaults.NEIGHBOURS), "recall": asked.get("recall", defaults.RECALL)}
    return build_index(store.stream(), store.ids, store.key_bytes(None), kind=kind, **about)  # type: ignore[arg-type]


def _update(store: FeatureStore, path: Path, name: str, seed: int, notes: list[str]) -> IndexReport:
    from featstore.indexes import FeatureIndex

    index = FeatureIndex.open(path, mmap=False)
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
    if len(rows):
        _grow(index, store, rows, generation, seed)
    purged = index.purge()
    if purged or not stale.fresh:
        index.save(path)
    return _report(index, path, name, len(rows), len(stale.gone), notes)


def _grow(index: FeatureIndex, store: FeatureStore, rows: NDArray[np.int64], generation: int, seed: int) -> None:
    """Add ``rows`` (m,); where there is a contract, measure recall on some of them before they go in."""
    from featstore.indexes import check_contract
    from featstore.indexes.build import grown
    from featstore.indexes.growth import draw_queries, judge

    def add(part: NDArray[np.int64]) -> None:
        if len(part):
            labels = store.labels[part].tolist()
            keys = store.key_bytes(part)
            index.add(store.stream(part), store.ids[part], keys, labels=labels, generation=generation)

    info = index.info()
    asking = rows[:0]
    groups = groups_of_equal_bytes(store.sha256)
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
        # As the rows grew so does the effort, once: raised at every update it would never cease to grow.
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
    """Write a store's vectors as a file of ann-benchmarks at ``path``, so that others can be measured on them too.

    Up to ``defaults.CHECK_QUERIES`` pictures, a tenth at most, are its test rows; those of equal bytes are left out of
    the others. Returns how many ask. Raises UsageError (too few pictures, no such metric), DamagedError, OSError.
    """
    from featstore.indexes import write_ann_benchmark
    from featstore.indexes.tuning.truth import hold_out

    opened = FeatureStore.open(Path(store))
    held_out = hold_out(len(opened), defaults.CHECK_QUERIES, seed, groups_of_equal_bytes(opened.sha256))
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
