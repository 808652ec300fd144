"""One small store, head and index for all fault tests; a test that changes these files makes a copy first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.building import make_head, make_index, small_store


@pytest.fixture(scope="session")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures/, store/, a.head, an.index and the side file of the index."""
    folder = tmp_path_factory.mktemp("master")
    store = small_store(folder)
    make_head(store, folder / "a.head")
    make_index(store, folder / "an.index")
    return folder
