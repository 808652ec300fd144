"""featstore.compact: what is purged, and what stays."""

from __future__ import annotations

import pytest

from featstore.errors import UsageError
from featstore.stages.compact import compact
from featstore.store import FeatureStore
from tests.chain import make_store, names, write_coloured


def test_compaction_purges_removed_pictures_and_keeps_ids_keys_and_vectors(tmp_path):
    folder = write_coloured(tmp_path / "pictures", names("", 4))
    store = make_store(folder, tmp_path / "s", unit_rows=3)
    for number in range(3):
        (folder / f"ant/{number:02d}.png").unlink()
    make_store(folder, store)
    with FeatureStore.open(store) as before:
        ids, keys, features = before.ids.tolist(), list(before.keys), before.features().copy()
    report = compact(store)
    assert (report.purged, report.shards_before) == (3, 3)
    assert report.shards_after < report.shards_before
    with FeatureStore.open(store) as after:
        assert (after.ids.tolist(), list(after.keys)) == (ids, keys)
        assert (after.features() == features).all()
    assert compact(store).shards_rewritten == 0


def test_compact_rejects_paths_without_a_store(tmp_path):
    with pytest.raises(UsageError, match="no feature store"):
        compact(tmp_path)
