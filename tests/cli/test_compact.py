"""Tests of the command ``featstore compact``."""

from __future__ import annotations

import pytest

from featstore.store import FeatureStore
from tests.cli.running import SMALL, run, run_json
from tests.made import write_pictures


@pytest.mark.slow
def test_compact_erases_removed_pictures_and_keeps_ids_and_vectors(tmp_path):
    pictures, store = write_pictures(tmp_path / "pictures", ["ant/1.png", "ant/2.png", "bee/3.png"]), tmp_path / "s"
    run("extract", pictures, store, *SMALL)
    (pictures / "ant/1.png").unlink()
    assert run_json("extract", pictures, store, *SMALL)["change"]["removed"] == 1
    with FeatureStore.open(store) as before:
        ids, features = before.ids.tolist(), before.features().copy()
    assert run("compact", store).stdout.startswith(f"{store}: 1 row purged; 1 shard (")
    with FeatureStore.open(store) as after:
        assert after.ids.tolist() == ids
        assert (after.features() == features).all()
    report = run_json("compact", store)
    assert (report["purged"], report["shards_rewritten"]) == (0, 0)
