"""Fixed format of histories: stores with past states, an undone labelling and labels from another store stay readable.

The function ``make`` wrote ``tests/golden/past`` and ``tests/golden/following`` when the format was final.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest

from featstore.errors import UsageError
from featstore.stages.compact import compact
from featstore.store import FeatureStore, tables
from featstore.store.label_history import label_history, undo_label
from featstore.store.labels import set_columns
from featstore.store.manifest import Manifest
from featstore.store.repair.verify import verify_store
from featstore.store.tables import FOLLOW
from tests.store.building import Pictures, build, identity, plan, work
from tests.store.test_golden import layout

GOLDEN = Path(__file__).parents[1] / "golden"
CONTENT = {f"{label}/{number}.jpg".encode(): number for label in ("ant", "bee") for number in range(3)}
LABELS = {key: key[:3].decode() for key in CONTENT}
HISTORY = {
    "retired/id": ("<u8", 1),
    "retired/segment": ("<u4", 1),
    "retired/why": ("|u1", 1),
    "retired/vector": ("|b1", 1),
    "keys/bytes": ("|u1", 1),
    "keys/offsets": ("<u8", 1),
    "meta": ("|u1", 1),
}


def make(place: Path) -> None:
    """Write the two stored examples. "past" has a changed and a removed picture, an undone labelling and a
    compaction."""
    path, source = place / "past", Pictures(dict(CONTENT), LABELS)
    build(path, source)
    set_columns(path, [b"ant/0.jpg"], {"label": ["queen"], "age": [3]})
    set_columns(path, [b"ant/1.jpg"], {"label": ["worker"]})
    undo_label(path)
    source.content[b"ant/2.jpg"] = 22
    del source.content[b"bee/2.jpg"]
    plan(path, source)
    work(path, source)
    compact(path)
    source.content[b"bee/3.jpg"] = 3
    plan(path, source)
    work(path, source)
    following = place / "following"
    build(following, Pictures(dict(source.content)), identity=identity(backbone="other"))
    manifest = Manifest.read(following)
    manifest.requiring(FOLLOW).write(following)
    reference = {"store": "/made/up/past", "relative": "../past", "store_id": Manifest.read(path).store_id}
    file = tables.table_path(following, 0, 0)
    tables.write_table(file, [], {}, "source", about={"follows": reference}, exclusive=False)
    for store in (path, following):
        shutil.rmtree(store / "work", ignore_errors=True)


def check(place: Path) -> None:
    for name, requires in (("past", ("history", "undo")), ("following", ("follow",))):
        store = FeatureStore.open(place / name)
        assert verify_store(place / name).problems == []
        assert Manifest.read(place / name).requires == requires
        labels = dict(zip(store.keys, store.labels.tolist(), strict=True))
        assert labels == {
            "ant/0.jpg": "queen",
            "ant/1.jpg": "ant",
            "bee/0.jpg": "bee",
            "bee/1.jpg": "bee",
            "ant/2.jpg": "ant",
            "bee/3.jpg": None,
        }
        assert store.columns == ["label", "split", "age"]
        told = [(each.origin, each.rows, each.changed, each.undone_by) for each in label_history(place / name)]
        assert told[1:4] == [("user", 1, 1, None), ("user", 1, 1, 4), ("undo", 1, 1, None)]
    with pytest.raises(UsageError, match=r"2 pictures of then are gone \(the first: 'ant/2.jpg', 'bee/2.jpg'\)"):
        FeatureStore.open(place / "past", at=(0, 1))
    then = FeatureStore.open(place / "past", at=2, missing="skip")
    assert (then.generation[:2], then.ids.tolist()) == ((0, 1), [0, 1, 3, 4])
    assert FeatureStore.open(place / "past", at=3, missing="skip").labels.tolist() == ["queen", "worker", "bee", "bee"]
    assert FeatureStore.open(place / "past", at=(0, 2)).ids.tolist() == [0, 1, 3, 4, 6]


def test_featstore_reads_the_golden_stores_with_a_history():
    check(GOLDEN)


def test_featstore_writes_the_layout_of_the_golden_stores_with_a_history(tmp_path: Path):
    make(tmp_path)
    check(tmp_path)
    for name in ("past", "following"):
        assert layout(tmp_path / name) == layout(GOLDEN / name)
        for file in layout(GOLDEN / name):
            with h5py.File(GOLDEN / name / file) as golden, h5py.File(tmp_path / name / file) as ours:
                metas = [json.loads(each["meta"][:].tobytes()) for each in (golden, ours)]
            assert metas[0].keys() == metas[1].keys()
    assert layout(GOLDEN / "past")["history/000000.h5"] == HISTORY
