"""Try one index type on vectors in memory: build an index, tune it to the contract (Contract), time it.

The outcome of each trial is recorded in a Trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import UsageError
from featstore.indexes.blocks import Floats, Metric
from featstore.indexes.files import faiss_io
from featstore.indexes.recall import Recall
from featstore.indexes.tuning.efforts import Subject, tune
from featstore.indexes.tuning.ladder import Candidate
from featstore.indexes.tuning.truth import Truth

_ADDED_AT_ONCE = 65536
_AS_QUERIES = 100
_FOR_THE_INDEX = 0.9
CONTRACT_QUERIES = 1000
"""Smallest number of held-out queries for a contract: with fewer, the 95 % interval of recall is wider than 0.02."""


@dataclass(frozen=True)
class Contract:
    """Requirements on an index.

    ``recall``: required recall@``at``, 0..1; the lower bound of its 95 % interval has to reach this value. ``memory``:
    maximum bytes for building the index; the FAISS file may take nine tenths of it, and a tenth is reserved for other
    data during the build. ``latency``: maximum median seconds of a single query.
    """

    recall: float = defaults.RECALL
    at: int = defaults.NEIGHBOURS
    memory: int | None = None
    latency: float | None = None

    def allows(self, file_bytes: int) -> bool:
        """Return whether an index of ``file_bytes`` bytes can be built and kept within ``memory`` bytes."""
        return self.memory is None or file_bytes <= _FOR_THE_INDEX * self.memory

    def check(self) -> None:
        """Raise UsageError for a value that no index could meet, such as a recall above 1."""
        if not 0 < self.recall <= 1:
            raise UsageError(f"the recall asked for is {self.recall}; it has to lie between 0 and 1")
        if self.at < 1:
            raise UsageError(f"recall at {self.at} was asked for; it has to be at least 1")
        for name, value in (("memory", self.memory), ("latency", self.latency)):
            if value is not None and value <= 0:
                raise UsageError(f"the {name} allowed is {value}; it has to be more than 0")


@dataclass
class Trial:
    """The result of trying one candidate: a row of the table of trials.

    ``outcome``: "chosen", "slower" (than the chosen candidate, at equal recall), or the reason for rejection.
    ``file_bytes``: estimated size of the index of all rows. ``subject``: the index of this trial; None if the trial was
    rejected or another trial is faster. The table does not contain ``subject``.
    """

    candidate: Candidate
    rows: int
    file_bytes: int
    outcome: str
    build_seconds: float | None = None
    effort: dict[str, float] | None = None
    recall: Recall | None = None
    queries_per_second: float | None = None
    latency_seconds: float | None = None
    subject: Subject | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as JSON types: one row of the table of trials."""
        return {
            "name": self.candidate.name,
            "factory": self.candidate.factory,
            "rows": self.rows,
            "bytes": self.file_bytes,
            "outcome": self.outcome,
            "build_seconds": self.build_seconds,
            "effort": self.effort,
            "recall": None if self.recall is None else self.recall.to_dict(),
            "queries_per_second": self.queries_per_second,
            "latency_seconds": self.latency_seconds,
        }


@dataclass(frozen=True)
class Ground:
    """The data that all trials share.

    ``base`` (m, d): prepared vectors; ``ids`` and ``rows`` (m,): their ids and row numbers; ``truth``: the tuning
    queries with their true neighbours. ``fresh``: number of queries in the final test divided by the number of tuning
    queries. The test has more or fewer queries than tuning, so its confidence bound differs: tuning uses ``fresh`` to
    find the recall that is expected to pass the test.
    """

    base: Floats
    ids: NDArray[np.int64]
    rows: NDArray[np.int64]
    truth: Truth
    metric: Metric
    seed: int
    threads: int | None
    fresh: float = 1.0


def create(factory: str, dimension: int, metric: Metric, seed: int) -> faiss_io.VectorIndex:
    """Return an empty index for the FAISS ``factory`` string, with efConstruction = ``defaults.HNSW_CONSTRUCTION``."""
    return faiss_io.VectorIndex.create(
        factory, dimension, metric != "l2", seed=seed, construction=defaults.HNSW_CONSTRUCTION
    )


def training_rows(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Draw from ``rows`` (m,) the rows on which FAISS trains its quantizers and clusters; return them sorted."""
    count = min(len(rows), defaults.INDEX_TRAINING_ROWS)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def try_candidate(candidate: Candidate, ground: Ground, contract: Contract, total_rows: int) -> Trial:
    """Build an index of type ``candidate`` on the vectors in ``ground``, tune it to ``contract`` and time it.

    The memory limit is checked for an index of all ``total_rows`` rows; ``ground`` may have fewer rows.
    """
    trial = Trial(candidate, len(ground.base), candidate.file_bytes(total_rows), "slower")
    if not contract.allows(trial.file_bytes):
        tenth = "" if trial.file_bytes > (contract.memory or 0) else ", a tenth of them for building it"
        trial.outcome = f"needs some {trial.file_bytes:,} bytes where {contract.memory:,} are allowed{tenth}"
        return trial
    if not candidate.exact and not len(ground.truth.queries):
        trial.outcome = (
            f"not tried: of {total_rows:,} vectors fewer than {CONTRACT_QUERIES:,} can be held out to confirm its recall; "
            "exact search is fast for so few"
        )
        return trial
    start = time.perf_counter()
    index = create(candidate.factory, ground.base.shape[1], ground.metric, ground.seed)
    index.train(ground.base[training_rows(np.arange(len(ground.base)), ground.seed)], ground.threads)
    for first in range(0, len(ground.base), _ADDED_AT_ONCE):
        part = slice(first, first + _ADDED_AT_ONCE)
        index.add(ground.base[part], ground.ids[part], ground.threads)
    trial.build_seconds = round(time.perf_counter() - start, 3)
    subject = Subject(index, ground.rows, ground.threads)
    if not len(ground.truth.queries):
        trial.recall = subject.recall(ground.truth)
        return _timed(trial, subject, ground.base[:_AS_QUERIES], contract)
    tuned = tune(subject, candidate, ground.truth, contract.recall, ground.fresh)
    trial.recall = subject.recall(ground.truth)
    trial.effort = index.effort
    if tuned is None:
        trial.outcome = "below the contract at its greatest effort"
        return trial
    trial.queries_per_second = round(tuned, 1)
    return _timed(trial, subject, ground.truth.queries, contract)


def _timed(trial: Trial, subject: Subject, queries: Floats, contract: Contract) -> Trial:
    """Measure the latency of a single query; reject the trial if the latency exceeds the limit of the contract."""
    trial.latency_seconds = round(subject.latency(queries, contract.at), 7)
    if contract.latency is not None and trial.latency_seconds > contract.latency:
        trial.outcome = (
            f"a query takes {1000 * trial.latency_seconds:.3g} ms where {1000 * contract.latency:.3g} are allowed"
        )
        return trial
    trial.subject = subject
    return trial


def try_all(
    candidates: Iterable[Candidate],
    ground: Ground,
    contract: Contract,
    total_rows: int,
    on_trial: Callable[[Trial], None] | None = None,
) -> tuple[Trial, list[Trial]]:
    """Try all candidates; return the fastest trial that meets the contract, and the list of all trials.

    Each candidate that meets the contract is timed alternately with the fastest one so far. At most two indexes are in
    memory at a time. Raises UsageError with the reason for each candidate if no candidate meets the contract.
    """
    trials: list[Trial] = []
    best: Trial | None = None
    fitting: set[str] = set()
    for candidate in candidates:
        size = candidate.file_bytes(total_rows)
        if contract.allows(size):
            fitting.add(candidate.name)
        if candidate.smaller_than in fitting:
            trial = Trial(candidate, len(ground.base), size, f"not needed: {candidate.smaller_than} fits in memory")
        else:
            trial = try_candidate(candidate, ground, contract, total_rows)
        trials.append(trial)
        if trial.subject is not None and (best is None or _quicker(trial, best, ground.truth)):
            if best is not None:
                best.subject = None
            best = trial
        else:
            trial.subject = None
        if on_trial is not None:
            on_trial(trial)
    if best is None:
        raise UsageError("no kind of index fits: " + "; ".join(f"{one.candidate.name} {one.outcome}" for one in trials))
    best.outcome = "chosen"
    return best, trials


def _quicker(trial: Trial, best: Trial, truth: Truth) -> bool:
    """Time ``trial`` and ``best`` alternately; return whether ``trial`` is faster. Updates their queries per second."""
    if trial.subject is None or best.subject is None or not len(truth.queries):
        return False
    own, others = trial.subject.rates_beside(best.subject, truth)
    trial.queries_per_second, best.queries_per_second = round(own, 1), round(others, 1)
    return own > others
