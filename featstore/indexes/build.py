"""Build an index, and measure its recall on held-out rows."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import UsageError
from featstore.files.byte_columns import ByteColumn
from featstore.indexes.blocks import Metric, check_metric, gather, prepared_blocks, shape_of
from featstore.indexes.feature_index import FeatureIndex
from featstore.indexes.files import faiss_io, pair
from featstore.indexes.recall import Recall
from featstore.indexes.rows import About, IndexRows
from featstore.indexes.tuning.efforts import Subject
from featstore.indexes.tuning.ladder import GRAPH_EFFORTS
from featstore.indexes.tuning.trials import create
from featstore.indexes.tuning.truth import HeldOut, Truth, find_truth, hold_out
from featstore.store.features import identity_of

Kind = Literal["auto", "flat", "hnsw"]
Progress = Callable[[str, int, int], None]


def build_index(
    vectors: Features,
    ids: NDArray[np.integer],
    keys: ByteColumn | Iterable[bytes | str],
    *,
    metric: Metric = "cosine",
    kind: Kind = "auto",
    k: int = defaults.NEIGHBOURS,
    recall: float = defaults.RECALL,
    about: About | None = None,
    groups: NDArray[np.integer] | None = None,
    seed: int = defaults.SEED,
    threads: int | None = None,
    progress: Progress | None = None,
) -> FeatureIndex:
    """Build an index of ``vectors`` (n, d) with row ``ids`` (n,), 0 to 2**63 - 1, and ``keys`` (n).

    ``kind``: "flat" compares a query with every vector and is exact; "hnsw" is a graph (Y. Malkov & D. Yashunin, TPAMI
    2018) over float32 vectors; "auto" is flat for up to ``defaults.EXACT_SCAN_BYTES`` of vectors, otherwise hnsw.
    A graph is first built without a random sample of rows. Some rows of the sample are queries for tuning: efSearch is
    increased until their recall@``k`` reaches ``recall``. The remaining rows of the sample are queries that measure the
    reported recall and its interval. Then the sample is added to the graph.
    ``about``: labels, identity and origin to keep in the index; the default identity is that of ``vectors``.
    ``groups`` (n,): rows of one group (such as crops of one picture) are held out together.
    The index and one block of vectors are in memory. ``vectors`` are read about six times for a graph, once for flat.
    ``progress(stage, done, total)`` is called after each block. Raises UsageError for wrong shapes, invalid ids, NaN,
    or an unknown kind.
    """
    about = about or About()
    if about.identity is None and identity_of(vectors) is not None:
        about = replace(about, identity=cast("Any", vectors).identity)
    check_metric(metric)
    rows, dimension = shape_of(vectors)
    tables = IndexRows.of(ids, keys, about.labels, rows)
    if not rows:
        raise UsageError("there are no vectors to index; extract some first")
    if kind not in ("auto", "flat", "hnsw"):
        raise UsageError(f"kind {kind!r} is not known; choose auto, flat or hnsw")
    if k < 1 or not 0 < recall <= 1:
        raise UsageError("k has to be at least 1 and recall to lie between 0 and 1")
    flat = kind == "flat" or (kind == "auto" and rows * dimension * 4 <= defaults.EXACT_SCAN_BYTES)
    factory = "Flat" if flat else f"HNSW{defaults.HNSW_LINKS}"
    index = create(factory, dimension, metric, seed)
    if flat:
        measured = Recall(1.0, 1.0, 1.0, k, 0, "exact")
        order = fill(index, vectors, tables.ids, metric, np.ones(rows, np.bool_), threads, progress)
    else:
        wanted = defaults.TUNING_QUERIES + defaults.CHECK_QUERIES
        held_out = hold_out(rows, wanted, seed, None if groups is None else check_groups(groups, rows))
        order = fill(index, vectors, tables.ids, metric, ~held_out.withheld, threads, progress)
        truth = held_out_truth(vectors, held_out, k, metric, threads)
        measured = _tuned(Subject(index, order, threads), truth, recall, held_out.cuts(1, 2)[0])
        index.effort = grown(index.effort, rows / max(1, len(order)))
        order = np.r_[order, fill(index, vectors, tables.ids, metric, held_out.withheld, threads, progress)]
    record = pair.Record(
        metric=metric,
        factory=factory,
        **about.to_record(),
        recall=measured,
        measured_rows=rows,
        versions=versions(),
    )
    return FeatureIndex(index, tables.take(order) if not flat else tables, record)


def versions() -> dict[str, str]:
    """Return the versions of the libraries that affect an index."""
    return {"faiss": faiss_io.VERSION, "numpy": np.__version__}


def check_groups(groups: NDArray[np.integer], rows: int) -> NDArray[np.int64]:
    """Return ``groups`` as int64 (n,); raise UsageError if there is not one group number for each of ``rows`` rows."""
    given = np.asarray(groups)
    if given.shape != (rows,):
        raise UsageError(f"groups have the shape {given.shape} where ({rows},) is needed")
    return given.astype(np.int64)


def held_out_truth(vectors: Features, held_out: HeldOut, k: int, metric: Metric, threads: int | None) -> Truth:
    """Return the held-out queries with their true neighbours among the rows that are not held out."""
    queries = gather(vectors, metric, held_out.queries)
    truth = find_truth(vectors, queries, k, metric=metric, allowed=~held_out.withheld, threads=threads)
    return dataclasses.replace(truth, clusters=held_out.clusters)


def fill(
    index: faiss_io.VectorIndex,
    vectors: Features,
    ids: NDArray[np.int64],
    metric: Metric,
    wanted: NDArray[np.bool_],
    threads: int | None = None,
    progress: Progress | None = None,
) -> NDArray[np.int64]:
    """Add the rows marked in ``wanted`` (n,) to ``index``, block by block; return their row numbers (m,), ascending."""
    index.reserve(len(wanted))
    for start, block in prepared_blocks(vectors, metric):
        part = wanted[start : start + len(block)]
        if part.any():
            index.add(block if part.all() else block[part], ids[start : start + len(block)][part], threads)
        if progress is not None:
            progress("index", start + len(block), len(wanted))
    return np.flatnonzero(wanted)


def _tuned(subject: Subject, truth: Truth, goal: float, cut: int) -> Recall:
    """Increase efSearch until the recall of the first ``cut`` queries reaches ``goal``.

    Returns the recall of the other queries.
    """
    if not cut:
        return Recall(None, None, None, truth.k, 0, "not measured")
    tuning, check = truth.part(0, cut), truth.part(cut, len(truth.queries))

    def reached(effort: int) -> bool:
        subject.index.effort = {"efSearch": max(effort, truth.k)}
        return (subject.recall(tuning).value or 0) >= goal

    place = bisect_left(GRAPH_EFFORTS, True, key=reached)
    subject.index.effort = {"efSearch": max(GRAPH_EFFORTS[min(place, len(GRAPH_EFFORTS) - 1)], truth.k)}
    return subject.recall(check)


def grown(effort: Mapping[str, float], ratio: float) -> dict[str, float]:
    """Return the search parameters ``effort``, raised so that recall is kept with ``ratio`` (>= 1) times as many rows.

    k_factor and efSearch are multiplied by sqrt(``ratio``). The square root is enough, because recall falls far more
    slowly than the number of rows grows (measured at 1.25 times as many rows, on real and synthetic vectors). nprobe is
    unchanged, because the same number of lists still contains the same share of all rows.
    """
    ratio = math.sqrt(ratio)
    raised = {"k_factor": lambda value: round(value * ratio, 2), "efSearch": lambda value: math.ceil(value * ratio)}
    return {name: raised[name](value) if name in raised else value for name, value in effort.items()}
