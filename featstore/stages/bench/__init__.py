"""Benchmarks on the user's own machine and pictures: one fresh process a contender, alternating rounds, medians.

Nothing heavy is imported until a name is used; what is measured runs in processes of its own (contenders.py, storage.py).
"""

from __future__ import annotations

from featstore.stages.bench.rounds import Measured
from featstore.stages.bench.speed import SpeedReport, bench
from featstore.stages.bench.storing import StorageReport, bench_store

__all__ = ["Measured", "SpeedReport", "StorageReport", "bench", "bench_store"]
