"""The stage behind ``featstore bench --store``: speed of shards compared with plain files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Any, Final

from featstore import defaults
from featstore.errors import UsageError
from featstore.stages.bench.rounds import Contender, Measured, Tell, alternate, apart

_PLACE: Final = "featstore.stages.bench.storage"
DTYPES: Final = ("float32", "float16")


@dataclass(frozen=True)
class StorageReport:
    """Rates in MB (10^6 bytes) of vectors per second, and the store's rates relative to plain files.

    ``shares``: for each dtype, two ratios to plain files (``write``, ``scan``; medians of the rounds' ratios) and two
    times. ``write``: writing, checking and syncing a shard, relative to write() and fsync of the same vectors.
    ``scan``: reading all vectors block by block, relative to a memory map of the plain file. ``gather_us`` and
    ``plain_gather_us``: microseconds per row for reading ``gathered`` rows in random order from the store and from the
    plain file.
    """

    directory: str
    megabytes: int
    dimension: int
    gathered: int
    rounds: int
    contenders: list[Measured]
    shares: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return the benchmark's result as JSON types."""
        return {**self.__dict__, "contenders": [contender.to_dict() for contender in self.contenders]}


def bench_store(
    directory: str | os.PathLike[str] | None = None,
    *,
    megabytes: int = defaults.BENCH_MEGABYTES,
    dimension: int = defaults.BENCH_DIMENSION,
    rounds: int = defaults.BENCH_ROUNDS,
    tell: Tell | None = None,
) -> StorageReport:
    """Measure writing, scanning and gathering ``megabytes`` MiB of vectors on the disk of ``directory``.

    Files are written to a temporary folder in ``directory`` (None: the system's temporary folder) and removed
    afterwards. Raises UsageError for invalid options, FeatstoreError if a contender fails, OSError if a file cannot be
    written.
    """
    if min(megabytes, dimension, rounds) < 1:
        raise UsageError("megabytes, dimension and rounds have to be at least 1")
    if directory is not None and not os.path.isdir(directory):
        raise UsageError(f"{os.fspath(directory)}: is no folder")
    with tempfile.TemporaryDirectory(prefix="featstore-bench-", dir=directory) as place:
        contenders, gathered = [], 0
        for dtype in DTYPES:
            task = {"directory": place, "dtype": dtype, "megabytes": megabytes, "dimension": dimension}
            gathered = apart(f"{_PLACE}:prepare", task, "what is to be read")
            for what in ("write", "scan", "gather"):
                for kind in ("plain", "store"):
                    contenders.append(Contender(f"{what} {dtype}, {kind}", f"{_PLACE}:{what}", {**task, "kind": kind}))
        measured = alternate(contenders, rounds, tell)
    by_name = {each.name: each for each in measured}
    row_bytes = {dtype: dimension * (4 if dtype == "float32" else 2) for dtype in DTYPES}
    return StorageReport(
        os.fspath(directory or tempfile.gettempdir()),
        megabytes,
        dimension,
        gathered,
        rounds,
        measured,
        {
            dtype: {
                "write": by_name[f"write {dtype}, store"].share_of(by_name[f"write {dtype}, plain"]),
                "scan": by_name[f"scan {dtype}, store"].share_of(by_name[f"scan {dtype}, plain"]),
                "gather_us": row_bytes[dtype] / by_name[f"gather {dtype}, store"].median,
                "plain_gather_us": row_bytes[dtype] / by_name[f"gather {dtype}, plain"].median,
            }
            for dtype in DTYPES
        },
    )
