"""Several writers at once add format features that a reader of the store must support."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from featstore.stages.compact import compact
from featstore.store.manifest import KNOWN_FEATURES, Manifest
from featstore.store.repair.verify import verify_store
from featstore.store.requires import require
from tests.store.building import Pictures, build


def test_concurrent_writers_all_add_their_required_format_feature(tmp_path: Path):
    store = tmp_path / "s"
    build(store, Pictures({b"a": 1}))
    begin = threading.Barrier(len(KNOWN_FEATURES))

    def add(feature: str) -> None:
        begin.wait()
        require(store, feature)

    with ThreadPoolExecutor(len(KNOWN_FEATURES)) as pool:
        list(pool.map(add, sorted(KNOWN_FEATURES)))
    assert Manifest.read(store).requires == tuple(sorted(KNOWN_FEATURES))
    assert verify_store(store).problems == []
    compact(store)
    assert not (store / "work" / "requires").exists()
