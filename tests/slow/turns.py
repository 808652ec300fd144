"""The contenders of tests.slow.peers, each in a fresh process, which waits for its turn and then measures for a moment.

The speed of a machine that is shared varies by half within seconds. A turn of all contenders takes a few; what then
slows the machine slows them alike, and what they make of one another stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tests.slow.contenders import Contender, contenders

_WARM = 200
_SINGLES = 150
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


def measure(contender: Contender, queries: Any, threads: int, number: int) -> dict[str, float]:
    """Time one batch of all queries, and single ones (the median), each turn others, once the caches are its own."""
    contender.search(queries[:_WARM], threads)
    start = time.perf_counter()
    contender.search(queries, threads)
    batch = time.perf_counter() - start
    ones = []
    for place in range(_WARM + _SINGLES):
        at = (number * _SINGLES + place) % len(queries)
        one = queries[at : at + 1]
        start = time.perf_counter()
        contender.search(one, threads)
        ones.append(time.perf_counter() - start)
    return {"batch": len(queries) / batch, "single": 1 / float(np.median(ones[_WARM:]))}


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
