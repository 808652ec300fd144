"""featstore.compact: data of removed pictures is deleted; ids, keys and vectors of the others stay."""

from __future__ import annotations

import pytest

from featstore.errors import DamagedError, UsageError
from featstore.files import sealed
from featstore.stages.compact import compact
from featstore.stages.verify import verify
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


@pytest.mark.parametrize(
    ("folder", "array"),
    [("shards", "features"), ("shards", "sha256"), ("plan", "size"), ("tables", "columns/0/values")],
)
def test_compaction_refuses_a_damaged_store_and_changes_nothing(tmp_path, folder, array):
    pictures = write_coloured(tmp_path / "pictures", names("", 4))
    store = make_store(pictures, tmp_path / "s", unit_rows=3)
    (pictures / "ant/00.png").unlink()
    make_store(pictures, store)
    file = min((store / folder).rglob("*.h5"))
    offset = sealed.read_header(file)["arrays"][array]["offset"]
    with open(file, "r+b") as handle:
        handle.seek(offset + 1)
        byte = handle.read(1)[0]
        handle.seek(offset + 1)
        handle.write(bytes([byte ^ 4]))
    before = sorted(path for path in store.rglob("*") if path.is_file())
    with pytest.raises(DamagedError, match=rf"{array} does not match.*nothing was compacted: run featstore repair"):
        compact(store)
    assert sorted(path for path in store.rglob("*") if path.is_file()) == before
    assert verify(store).problems
