"""Settings that all tests share."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set OMP_NUM_THREADS before torch is loaded; processes that tests start inherit it. The suite runs one process per
# core, so more OpenMP threads would only spin while they wait for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "explore",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# Hypothesis uses fixed examples, so that the result depends on the code alone; the profile "explore" draws new
# examples.
settings.register_profile("repeatable", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Use a temporary user cache, which is removed after the tests.
_CACHE = tempfile.TemporaryDirectory(prefix="featstore-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

LONGEST = (
    "faults/test_pairs.py",
    "environment/test_streams.py",
    "environment/test_watch.py",
    "test_readme.py",
    "heads/estimators/test_estimators.py",
    "finetuning/test_network.py",
    "finetuning/test_partition.py",
    "stages/test_finetune.py",
    "cli/test_views.py",
    "indexes/test_contract.py",
    "faults/test_forging.py",
    "pipelines/test_pipelines.py",
    "store/test_past.py",
    "stages/extract/test_stage.py",
    "cli/test_extract.py",
    "stages/test_compare.py",
    "store/test_folders.py",
    "store/test_store.py",
    "store/test_beside_compaction.py",
    "cli/test_finetune.py",
    "stages/extract/test_supervisor.py",
    "cli/test_train.py",
    "faults/test_kills.py",
    "engines/test_compiled.py",
    "engines/test_engines.py",
    "stages/test_train_again.py",
    "faults/test_readers.py",
    "typing/test_uses.py",
)
"""Files that take more than ten seconds. They run first: a long file that starts last would leave other cores idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests of the files in LONGEST to the front, and keep the order of all others."""
    places = {Path(__file__).parent / name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the workers of extractions as forks of a process that has imported torch; this saves 3 s for each worker.

    tests/stages/extract/test_supervisor.py starts workers as users do.
    """
    from featstore.stages.extract import supervisor
    from tests.warm import ServedWorkers

    monkeypatch.setattr(supervisor, "subprocess", ServedWorkers)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Print a failure immediately, so that it is visible even if the run is interrupted later."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}\n{report.longreprtext}", file=sys.stderr, flush=True)
