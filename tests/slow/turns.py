"""Measure the indexes of tests.slow.peers in turn: each has a fresh process that waits for its turn, then measures
briefly.

The speed of a shared machine can halve or double within seconds, for example when two threads share one core instead of
using two cores. Each turn takes about a second and there are many turns. So each index is measured several times while
the machine is fast.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.slow.contenders import Contender, contenders

_BATCHES = 1.0
_SINGLES = 0.5
_PARTS = 5
_FEWEST = 3
_PAUSE = 0.02

Rates = dict[str, list[float]]
"""Queries per second of each run: lists under the names "batch" (all queries in one call) and "single"."""


class Turns:
    """Processes that have loaded one index each, named in ``names``, from ``place``, and search with ``threads``
    threads."""

    def __init__(self, place: Path, metric: str, names: list[str], threads: int) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        for name in names:
            task = json.dumps({"name": name, "metric": metric, "place": str(place), "threads": threads})
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.slow.turns", task],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            self._answer(name)

    def take(self, name: str, effort: int | None, number: int) -> Rates:
        """Let the process of the index ``name`` search at ``effort``; return its queries per second.

        ``number``: number of the turn, from 0.
        """
        # Wait until the threads of the previous process sleep; before they sleep they use processor time for a moment.
        time.sleep(_PAUSE)
        pipe = self._processes[name].stdin
        assert pipe is not None
        pipe.write(json.dumps([effort, number]) + "\n")
        pipe.flush()
        answer: Rates = self._answer(name)
        return answer

    def _answer(self, name: str) -> Any:
        pipe = self._processes[name].stdout
        assert pipe is not None
        line = pipe.readline()
        if not line:
            raise RuntimeError(f"{name} ended with exit code {self._processes[name].wait()}")
        return json.loads(line)

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes.values():
            process.communicate()


def measure(contender: Contender, queries: NDArray[np.float32], threads: int, number: int) -> Rates:
    """Return the queries per second of repeated runs: first with all queries in one call, then with one call per query.

    Each run with single calls uses every _PARTS-th query; the next run starts at another query. So each run has queries
    from all pictures, but few successive queries from one picture, whose neighbours would already be in the processor's
    caches. The first run of each kind is discarded: the caches still hold data of another process, and an idle
    processor may be slow.
    """
    batch = [_rate(contender, [queries], threads) for _ in _while(_BATCHES)]
    single = [_rate(contender, queries[(number + run) % _PARTS :: _PARTS, None], threads) for run in _while(_SINGLES)]
    return {"batch": batch[1:], "single": single[1:]}


def _while(seconds: float) -> Iterator[int]:
    start = time.perf_counter()
    for run in itertools.count():
        if run >= _FEWEST and time.perf_counter() - start > seconds:
            return
        yield run


def _rate(contender: Contender, parts: Sequence[NDArray[np.float32]] | NDArray[np.float32], threads: int) -> float:
    start = time.perf_counter()
    for part in parts:
        contender.search(part, threads)
    return sum(map(len, parts)) / (time.perf_counter() - start)


def main(task: dict[str, Any]) -> None:
    """Load the index and print "ready"; then for each line of stdin, [effort, number], print the queries per second."""
    place, threads = Path(task["place"]), task["threads"]
    queries = np.load(place / "queries.npy")
    contender = contenders(task["metric"])[task["name"]]()
    contender.load(place / f"{task['name']}.index", queries.shape[1])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        contender.effort, number = json.loads(line)
        print(json.dumps(measure(contender, queries, threads, number)), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
