"""The contenders of tests.slow.peers, each in a fresh process, which waits for its turn and then measures for a moment.

The speed of a machine that is shared varies by half within seconds. A turn of all contenders takes a few, and there are
many: each then has some in which the machine was quick.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.slow.contenders import Contender, contenders

_BATCHES = 0.5
_SINGLES = 0.25
_FIRST = 100
_PAUSE = 0.02


class Turns:
    """Processes with the contenders ``names`` of the set at ``place``, loaded, each with ``threads`` threads."""

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

    def take(self, name: str, effort: int | None, number: int) -> dict[str, float]:
        """Return the queries a second of ``name`` at ``effort``: "batch" and "single". ``number``: of the turn."""
        # Threads that wait for work spin for a moment before they sleep.
        time.sleep(_PAUSE)
        pipe = self._processes[name].stdin
        assert pipe is not None
        pipe.write(json.dumps([effort, number]) + "\n")
        pipe.flush()
        answer: dict[str, float] = self._answer(name)
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


def measure(contender: Contender, queries: NDArray[np.float32], threads: int, number: int) -> dict[str, float]:
    """Time batches of all queries for a while, then single queries, each turn others; the medians.

    What was asked first is left out: until then the caches are another's, and a processor that was idle may be slow.
    """
    batches, ones = [], []
    start = time.perf_counter()
    while len(batches) < 3 or time.perf_counter() - start < _BATCHES:
        batches.append(_seconds(contender, queries, threads))
    start, place = time.perf_counter(), number * _FIRST
    while len(ones) < 2 * _FIRST or time.perf_counter() - start < _SINGLES:
        at = place % len(queries)
        ones.append(_seconds(contender, queries[at : at + 1], threads))
        place += 1
    return {"batch": len(queries) / statistics.median(batches[1:]), "single": 1 / statistics.median(ones[_FIRST:])}


def _seconds(contender: Contender, queries: NDArray[np.float32], threads: int) -> float:
    start = time.perf_counter()
    contender.search(queries, threads)
    return time.perf_counter() - start


def main(task: dict[str, Any]) -> None:
    """Load, say so, and answer each line of stdin."""
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
