"""Benchmarks on the user's own machine and pictures: results are medians over several rounds.

Each measured function (contender) runs once per round, in a fresh process. The contenders are in contenders.py,
peers.py and storage.py; names are imported lazily.
"""

from __future__ import annotations

from featstore.stages.bench.rounds import Measured
from featstore.stages.bench.speed import SpeedReport, bench
from featstore.stages.bench.storing import StorageReport, bench_store

__all__ = ["Measured", "SpeedReport", "StorageReport", "bench", "bench_store"]
