"""Build an index for a contract (the recall, memory and latency that a user demands).

The fastest index is chosen whose recall is confirmed on queries that were not used for tuning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.blocks import Features
from featstore.errors import UsageError
from featstore.files.byte_columns import ByteColumn
from featstore.indexes.blocks import Metric, check_metric, gather, prepare, shape_of
from featstore.indexes.build import Progress, check_groups, fill, grown, held_out_truth, versions
from featstore.indexes.exact import check_queries
from featstore.indexes.feature_index import FeatureIndex
from featstore.indexes.files import pair
from featstore.indexes.recall import Recall, keeps
from featstore.indexes.rows import About, IndexRows
from featstore.indexes.tuning.efforts import Subject, descent, median_seconds
from featstore.indexes.tuning.ladder import Candidate, flat, ladder
from featstore.indexes.tuning.trials import CONTRACT_QUERIES, Contract, Ground, Trial, create, training_rows, try_all
from featstore.indexes.tuning.truth import HeldOut, find_truth, hold_out

# Number of queries for the final test of recall. It is larger than for an index without a contract, because a narrower
# interval needs a smaller safety margin of recall.
_FRESH = 3000
_LEAST_SAMPLE = 128 << 20
_TIMED_QUERIES = 100


def build_contract(
    vectors: Features,
    ids: NDArray[np.integer],
    keys: ByteColumn | Iterable[bytes | str],
    contract: Contract | None = None,
    *,
    metric: Metric = "cosine",
    candidates: Sequence[Candidate] | None = None,
    about: About | None = None,
    groups: NDArray[np.integer] | None = None,
    seed: int = defaults.SEED,
    threads: int | None = None,
    progress: Progress | None = None,
) -> FeatureIndex:
    """Return the fastest index (queries per second, batch, one thread) among ``candidates`` that meet ``contract``.

    At most a tenth of the rows (a fifth, if ``groups`` are held out whole) is held out as queries. With a quarter of
    the queries, the search parameters of each candidate are tuned. The other queries, called fresh, are never used for
    tuning. With them, settings of the fastest candidate are tested, ordered from high recall to high speed, until a
    setting fails. A setting passes if the 95 % interval of its recall starts at ``contract.recall`` or above and is at
    most 0.02 wide. The last setting that passes is used, and its recall on the fresh queries is reported. Testing in a
    fixed order up to the first failure needs no correction for multiple tests (fixed-sequence testing: W. Maurer et al.
    1995; for thresholds of models: A. Angelopoulos et al., Learn then Test, 2021). Exact search is used if the first
    setting fails, or if there are too few rows (below 10,000; with groups of two or more rows, below 5,000). Then the
    held-out rows are added, and search parameters are raised slightly. ``candidates``: default ``ladder.ladder``.

    Candidates are tried in memory, on up to ``defaults.CONTRACT_SAMPLE_BYTES`` of vectors and at most a quarter of
    ``contract.memory``. Larger data is sampled at random; only the chosen candidate is then built, tuned and measured
    on all rows. ``info()["trials"]`` lists all trials with the reason for each rejection; ``info()["contract"]`` has
    the outcome, and the finished index's latency if ``contract.latency`` is given. Other parameters: see build_index.
    Raises UsageError as build_index does, and if no candidate, or a required exact search, meets the given limits.
    """
    contract, about = contract or Contract(), about or About()
    contract.check()
    check_metric(metric)
    rows, dimension = shape_of(vectors)
    tables = IndexRows.of(ids, keys, about.labels, rows)
    if not rows:
        raise UsageError("there are no vectors to index; extract some first")
    job = _Job(vectors, tables.ids, metric, contract, seed, threads, progress)
    held_out = _held_out(rows, seed, None if groups is None else check_groups(groups, rows))
    kept = np.flatnonzero(~held_out.withheld)
    # The sample and two indexes built on it are in memory together; their total must stay below contract.memory.
    share = defaults.CONTRACT_SAMPLE_BYTES if contract.memory is None else max(_LEAST_SAMPLE, contract.memory // 4)
    most = max(1, min(defaults.CONTRACT_SAMPLE_BYTES, share) // (4 * dimension))
    tried = kept if len(kept) <= most else np.sort(np.random.default_rng(seed).choice(kept, most, replace=False))
    best, trials = _try(job, held_out, tried, candidates)
    if len(tried) == len(kept) and best.subject is not None:
        chosen = _Chosen(best.candidate, best.subject)
    else:
        best.subject = None
        chosen = _whole(job, best.candidate, kept)
    chosen, measured, asked = _verified(job, chosen, held_out)
    if (last := chosen.candidate).exact and not best.candidate.exact:
        best.outcome = "missed the recall on held-out queries"
        reason = "chosen: exact, because the fastest one missed the recall on held-out queries"
        trials.append(Trial(last, rows, last.file_bytes(rows), reason))
    index, order = chosen.subject.index, chosen.subject.rows
    if held_out.withheld.any():
        index.effort = grown(index.effort, rows / len(kept))
        order = np.r_[order, fill(index, vectors, tables.ids, metric, held_out.withheld, threads, progress)]
    outcome = {
        "holds": keeps(measured, contract.recall),
        "efforts_asked": asked,
        "rows_tried": len(tried),
        "sampled": len(tried) < len(kept),
    }
    record = pair.Record(
        metric=metric,
        factory=chosen.candidate.factory,
        **about.to_record(),
        recall=measured,
        measured_rows=rows,
        contract={**dataclasses.asdict(contract), **outcome},
        trials=[trial.to_dict() for trial in trials],
        versions=versions(),
    )
    tables = tables if (order == np.arange(rows)).all() else tables.take(order)
    made = FeatureIndex(index, tables, record)
    return made if contract.latency is None else check_latency(made, vectors)


@dataclass(frozen=True)
class _Job:
    vectors: Features
    ids: NDArray[np.int64]
    metric: Metric
    contract: Contract
    seed: int
    threads: int | None
    progress: Progress | None


@dataclass(frozen=True)
class _Chosen:
    candidate: Candidate
    subject: Subject


def _held_out(rows: int, seed: int, groups: NDArray[np.int64] | None) -> HeldOut:
    held_out = hold_out(rows, defaults.TUNING_QUERIES + _FRESH, seed, groups)
    if len(held_out.queries) >= CONTRACT_QUERIES:
        return held_out
    return HeldOut(held_out.queries[:0], held_out.clusters[:0], np.zeros(rows, np.bool_))


def _cut(held_out: HeldOut) -> int:
    """Return the number of held-out queries for tuning, which come first. All other queries are for the final test."""
    return held_out.cuts(defaults.TUNING_QUERIES, _FRESH)[0]


def _fresh(held_out: HeldOut) -> float:
    """Return the number of queries for the final test, divided by the number of queries for tuning."""
    return (len(held_out.queries) - _cut(held_out)) / max(1, _cut(held_out))


def _try(
    job: _Job, held_out: HeldOut, tried: NDArray[np.int64], candidates: Sequence[Candidate] | None
) -> tuple[Trial, list[Trial]]:
    """Build, tune and time the candidates on the rows ``tried`` (m,); return the best trial and all trials."""
    base = gather(job.vectors, job.metric, tried)
    queries = gather(job.vectors, job.metric, held_out.queries[: _cut(held_out)])
    # Vectors prepared for cosine have length 1, so the cosine equals the inner product.
    prepared: Metric = "l2" if job.metric == "l2" else "ip"
    truth = find_truth(base, queries, job.contract.at, metric=prepared, threads=job.threads)
    named = np.where(truth.rows >= 0, tried[truth.rows], -1)
    truth = dataclasses.replace(truth, rows=named, clusters=held_out.clusters[: len(queries)])
    ground = Ground(base, job.ids[tried], tried, truth, job.metric, job.seed, job.threads, _fresh(held_out))
    steps = list(ladder(len(tried), base.shape[1], job.metric)) if candidates is None else list(candidates)
    done: list[Trial] = []

    def on_trial(trial: Trial) -> None:
        done.append(trial)
        if job.progress is not None:
            job.progress(f"tried {trial.candidate.name}", len(done), len(steps))

    return try_all(steps, ground, job.contract, len(job.ids), on_trial)


def _whole(job: _Job, candidate: Candidate, kept: NDArray[np.int64]) -> _Chosen:
    """Build ``candidate`` from the rows ``kept`` (m,). The number of inverted lists is chosen for the total number of
    rows.
    """
    rows, dimension = shape_of(job.vectors)
    candidate = next((one for one in ladder(rows, dimension, job.metric) if one.name == candidate.name), candidate)
    index = create(candidate.factory, dimension, job.metric, job.seed)
    index.train(gather(job.vectors, job.metric, training_rows(kept, job.seed)), job.threads)
    return _filled(job, candidate, index, kept)


def _filled(job: _Job, candidate: Candidate, index: Any, kept: NDArray[np.int64]) -> _Chosen:
    wanted = np.zeros(len(job.ids), np.bool_)
    wanted[kept] = True
    order = fill(index, job.vectors, job.ids, job.metric, wanted, job.threads, job.progress)
    return _Chosen(candidate, Subject(index, order, job.threads))


def _verified(job: _Job, chosen: _Chosen, held_out: HeldOut) -> tuple[_Chosen, Recall, int]:
    """Set the fastest search parameters that pass the final test of recall; if none pass, change to exact search.

    Returns the index, its recall, and the number of settings tested.
    """
    goal, subject = job.contract.recall, chosen.subject
    exact = Recall(1.0, 1.0, 1.0, job.contract.at, 0, "exact")
    if chosen.candidate.exact:
        return chosen, exact, 0
    truth = held_out_truth(job.vectors, held_out, job.contract.at, job.metric, job.threads)
    seen, queries = _cut(held_out), len(held_out.queries)
    tuning, fresh = truth.part(0, seen), truth.part(seen, queries)
    confirmed: tuple[dict[str, float], Recall] | None = None
    asked = 0
    for effort in descent(subject, chosen.candidate, tuning, goal, _fresh(held_out)):
        asked += 1
        subject.index.effort = effort
        measured = subject.recall(fresh)
        if not keeps(measured, goal):
            break
        confirmed = effort, measured
    if confirmed is not None:
        subject.index.effort, measured = confirmed
        return chosen, measured, asked
    last = flat(shape_of(job.vectors)[1])
    if not job.contract.allows(size := last.file_bytes(len(job.ids))):
        raise UsageError(
            f"{chosen.candidate.name}, the quickest on a sample, does not keep a recall of {goal:g} on fresh queries, and "
            f"exact search needs {size:,} bytes where {job.contract.memory:,} are allowed; ask for less recall or allow more"
        )
    index = create(last.factory, shape_of(job.vectors)[1], job.metric, job.seed)
    return _filled(job, last, index, np.flatnonzero(~held_out.withheld)), exact, asked


def check_latency(index: FeatureIndex, vectors: Features) -> FeatureIndex:
    """Measure the median seconds of a single query in one thread, and record them in the contract of ``index``.

    The queries are the first 100 rows of ``vectors`` (n, d). The index may contain these rows, which does not change
    the time.
    """
    queries = gather(vectors, index.metric, np.arange(min(_TIMED_QUERIES, shape_of(vectors)[0])))
    k = index.recall.k
    seconds = round(median_seconds(queries, lambda query: index.search(query, k, threads=1)), 7)
    contract = {**(index._record.contract or {}), "latency_seconds": seconds}
    index._record = dataclasses.replace(index._record, contract=contract)
    return index


def check_contract(
    index: FeatureIndex,
    queries: NDArray[np.floating],
    vectors: Features | None = None,
    ids: NDArray[np.integer] | None = None,
    *,
    groups: NDArray[np.integer] | None = None,
    threads: int | None = None,
) -> Recall:
    """Measure the recall of ``index`` again, for example after adding rows.

    ``queries`` (q, d) must not be rows of the index. The true neighbours are found in ``vectors`` (n, d) with ``ids``
    (n,); without ``vectors``, in the vectors that the index stores (if it stores 8-bit codes, the result is slightly
    high). The contract is met if ``keeps(result, index.info()["contract"]["recall"])`` is true;
    ``index.set_recall(result)`` stores the new recall in the index. ``groups`` (q,): queries of one group (crops of one
    picture) count as one observation. Raises UsageError as search does.
    """
    check_queries(queries, index.dimension, k := index.recall.k)
    if vectors is None:
        vectors, ids = index._stored()
    elif ids is None:
        raise UsageError("vectors need their ids")
    names = np.asarray(ids).astype(np.int64)
    truth = find_truth(vectors, prepare(queries, index.metric), k, metric=index.metric, threads=threads)
    clusters = None if groups is None else check_groups(groups, len(queries))
    named = dataclasses.replace(truth, rows=np.where(truth.rows >= 0, names[truth.rows], -1), clusters=clusters)
    return named.recall(index.search(queries, k, threads=threads)[1])
