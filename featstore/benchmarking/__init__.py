"""Benchmarks on the user's own machine and pictures: one fresh process a contender, alternating rounds, medians.

Nothing heavy is imported until a name is used; what is measured runs in processes of its own (contenders.py, storage.py).
"""

from __future__ import annotations

from featstore.benchmarking.rounds import Measured
from featstore.benchmarking.speed import SpeedReport, bench
from featstore.benchmarking.storing import StorageReport, bench_store

__all__ = ["Measured", "SpeedReport", "StorageReport", "bench", "bench_store"]
