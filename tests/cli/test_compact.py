"""featstore compact."""

from __future__ import annotations

import shutil

from featstore.store import FeatureStore
from tests.cli.running import SMALL, run, run_json


def test_removed_pictures_are_purged_and_the_others_keep_ids_and_vectors(place, tmp_path):
    store = shutil.copytree(place / "s", tmp_path / "s")
    pictures = shutil.copytree(place / "pictures", tmp_path / "pictures")
    (pictures / "train/ant/1.jpg").unlink()
    report = run_json("extract", pictures, store, *SMALL, "--root", pictures)
    assert report["change"]["removed"] == 1
    with FeatureStore.open(store) as before:
        ids, features = before.ids.tolist(), before.features().copy()
    assert run("compact", store).stdout.startswith(f"{store}: 1 row purged; 1 shard (")
    with FeatureStore.open(store) as after:
        assert after.ids.tolist() == ids
        assert (after.features() == features).all()
    report = run_json("compact", store)
    assert (report["purged"], report["shards_rewritten"]) == (0, 0)
