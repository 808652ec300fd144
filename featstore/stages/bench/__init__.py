"""Benchmarks on the user's own machine and pictures: alternating rounds, one fresh process per contender, medians.

Names are imported lazily; the measured functions (contenders.py, storage.py) run in processes of their own.
"""

from __future__ import annotations

from featstore.stages.bench.rounds import Measured
from featstore.stages.bench.speed import SpeedReport, bench
from featstore.stages.bench.storing import StorageReport, bench_store

__all__ = ["Measured", "SpeedReport", "StorageReport", "bench", "bench_store"]
