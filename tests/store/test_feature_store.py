from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from featstore import defaults
from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.stages.compact import compact
from featstore.store import FeatureStore, feature_store, shards, written
from featstore.store.labels import set_columns
from tests.made import extract, tiny_backbone, write_pictures
from tests.store.building import D, Pictures, build, plan, vector, work

KEYS = [f"{'cat' if i % 2 else 'dog'}/{i:02d}".encode() for i in range(12)]


def extracted(source, path):
    extract(source, path, backbone=tiny_backbone(), engine="torch")
    return FeatureStore.open(path)


@pytest.fixture
def source():
    content = {key: i for i, key in enumerate(sorted(KEYS))}
    return Pictures(
        content,
        {key: key.split(b"/")[0].decode() for key in KEYS},
        {key: "train" if i < 8 else "test" for i, key in enumerate(KEYS)},
    )


@pytest.fixture
def store(source, tmp_path):
    return build(tmp_path / "s", source)


def test_method_features_with_a_split_name_returns_the_rows_of_that_split(store):
    test = store.features("test")
    assert test.shape == (4, D)
    keys = [store.keys[row] for row in store.split_rows("test")]
    np.testing.assert_array_equal(test[0], vector(keys[0].encode(), sorted(KEYS).index(keys[0].encode())))
    with pytest.raises(UsageError, match="no pictures of split 'val'; the splits are: test, train"):
        store.features("val")


def test_features_are_mapped_for_one_shard_and_copied_up_to_a_memory_limit_for_several(store, source, tmp_path):
    one = build(tmp_path / "one", source, unit_rows=100)
    features = one.features()
    assert not features.flags.owndata
    assert not features.flags.writeable
    assert one.features(memory_limit=0) is not None
    with pytest.raises(UsageError, match=r"12 vectors need .* more than the limit"):
        store.features(memory_limit=12 * D * 4 - 1)
    assert store.features(memory_limit=12 * D * 4).base.flags.owndata


def test_store_keys_behave_like_a_sequence(store):
    assert len(store.keys) == 12
    assert store.keys[0] == next(iter(store.keys)) == store.keys[:1][0] == "cat/01"
    assert store.keys[-1] == "dog/10"
    assert "dog/02" in store.keys
    with pytest.raises(IndexError):
        store.keys[12]


def test_classes_of_a_store_are_its_labels_in_natural_order(store):
    numbers = [None if row % 5 == 0 else str(row) for row in range(12)]
    set_columns(store.path, list(store._key_bytes(None)), {"label": numbers})
    classes = FeatureStore.open(store.path).classes
    assert classes == ["1", "2", "3", "4", "6", "7", "8", "9", "11"]


def test_method_index_of_returns_the_rows_of_keys(store):
    assert store.index_of(["dog/10", "cat/01", b"cat/03"]).tolist() == [11, 0, 1]
    assert store.index_of(["nobody", "cat/01"], missing="mark").tolist() == [-1, 0]
    with pytest.raises(UsageError, match="1 of 2 keys has no vector here.*'nobody'"):
        store.index_of(["nobody", "cat/01"])


@pytest.mark.parametrize("rows", [[12], [-1], [0, 99]])
def test_store_rejects_rows_out_of_range(store, rows):
    with pytest.raises(UsageError, match="rows 0 to 11 are there"):
        store.features(rows=rows)


def test_stream_of_features_can_be_iterated_twice(store):
    stream = store.stream([5, 1, 9], block_rows=2)
    assert stream.shape == (3, D)
    first = [block.copy() for block in stream.blocks()]
    assert [len(block) for block in first] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(list(stream)))


def test_number_of_shards_open_in_a_store_is_bounded(store, source, tmp_path):
    many = build(tmp_path / "many", source, unit_rows=1)
    many._live.shards.limit = 3
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert many.features().shape == (12, D)
    assert len(many._live.shards._open) == 3
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_open_store_is_unchanged_while_an_extraction_extends_it(store, source, tmp_path):
    source.content[b"new/1"] = 50
    plan(tmp_path / "s", source)
    during = FeatureStore.open(tmp_path / "s")
    assert (during.counts.pending, len(during)) == (1, 12)
    work(tmp_path / "s", source)
    assert len(store) == len(during) == 12
    assert len(FeatureStore.open(tmp_path / "s")) == 13
    np.testing.assert_array_equal(store.features(), during.features())


def test_store_rejects_a_shard_of_another_store(store, source, tmp_path):
    from tests.store.building import identity

    build(tmp_path / "other", source, identity=identity(weights="1" * 64))
    os.replace(shards.shard_path(tmp_path / "other", 1), shards.shard_path(tmp_path / "s", 1))
    with pytest.raises(DamagedError, match="another identity"):
        FeatureStore.open(tmp_path / "s").features()


def test_store_rejects_a_shard_file_renamed_to_another_unit_number(store, tmp_path):
    os.replace(shards.shard_path(tmp_path / "s", 0), shards.shard_path(tmp_path / "s", 1))
    written.unmark(tmp_path / "s", "shards-000000-00000000")
    with pytest.raises(DamagedError, match="does not hold what the plan says of unit 1"):
        FeatureStore.open(tmp_path / "s")


def test_large_store_must_be_reopened_after_compaction(store, source, tmp_path, monkeypatch):
    del source.content[b"cat/01"]
    source.content[b"cat/03"] = 99
    plan(tmp_path / "s", source)
    work(tmp_path / "s", source)
    monkeypatch.setattr(defaults, "HELD_SHARDS", 1)
    monkeypatch.setattr(defaults, "OPEN_SHARDS", 1)
    old = FeatureStore.open(tmp_path / "s")
    ids = old.ids.tolist()
    old._live.shards._open.clear()
    report = compact(tmp_path / "s")
    assert (report.purged, report.shards_before, report.shards_after) == (2, 4, 3)
    with pytest.raises(FeatstoreError, match="was compacted since it was opened"):
        old.features()
    new = FeatureStore.open(tmp_path / "s")
    assert new.ids.tolist() == ids
    naming = [path.parent.name for path in (tmp_path / "s").rglob("*.h5") if b"cat/01" in path.read_bytes()]
    assert naming == ["history"]


def test_keys_and_labels_can_be_indexed_by_an_array_or_a_mask(store):
    mask = store.labels == "dog"
    assert store.keys[mask] == [key for key in store.keys if key.startswith("dog")]
    assert store.labels[mask].tolist() == ["dog"] * 6
    assert store.keys[np.array([3, 1, -1])] == [store.keys[3], store.keys[1], store.keys[11]]
    assert store.keys[[3, 1]] == store.keys[3:0:-2]
    assert store.keys[[]] == []
    assert store.keys[np.int64(3)] == store.keys[3]
    assert store.index_of(store.keys[mask]).tolist() == np.flatnonzero(mask).tolist()
    with pytest.raises(IndexError):
        store.keys[mask[:5]]
    with pytest.raises(IndexError):
        store.keys[np.array([12])]


def test_store_has_a_shape_and_is_closed_by_a_with_block(source, tmp_path):
    build(tmp_path / "s", source)
    with FeatureStore.open(tmp_path / "s") as store:
        features = store.features()
        assert store.shape == features.shape == (12, D)
        assert store.dimension == store.identity.dimension == D
        before = features.copy()
    with pytest.raises(UsageError, match="was closed; open it again"):
        store.features()
    np.testing.assert_array_equal(features, before)


def test_method_path_of_returns_the_current_path_of_a_picture(tmp_path):
    write_pictures(tmp_path / "pictures", ["a/1.png", "b/2.png"])
    store = extracted(tmp_path / "pictures", tmp_path / "s")
    assert store.path_of("a/1.png") == tmp_path / "pictures/a/1.png"
    assert store.path_of(b"b/2.png").is_file()
    assert store.path_of("b/2.png", root="/elsewhere") == Path("/elsewhere/b/2.png")
    with pytest.raises(UsageError, match="no picture has the key 'a/2.png'"):
        store.path_of("a/2.png")


def test_method_path_of_returns_the_archive_of_an_archived_picture(tmp_path):
    write_pictures(tmp_path / "pictures", ["1.png", "2.png"])
    with tarfile.open(tmp_path / "p.tar", "w") as archive:
        for name in ("1.png", "2.png"):
            archive.add(tmp_path / "pictures" / name, name)
    store = extracted(tmp_path / "p.tar", tmp_path / "s")
    assert {store.path_of(key) for key in store.keys} == {tmp_path / "p.tar"}


def test_data_frame_of_a_store_has_a_row_for_each_vector(store):
    frame = store.to_pandas()
    assert list(frame.columns) == ["key", "id", "label", "split"]
    assert frame["label"].value_counts().to_dict() == {"cat": 6, "dog": 6}
    assert frame["label"].cat.categories.tolist() == ["cat", "dog"]


def test_data_frame_columns_have_the_types_of_their_values(tmp_path):
    keys = [b"a", b"b", b"c"]
    columns = {
        "whole": [1, 2, 2**53 + 1],
        "gaps": [2**53 + 1, None, 3],
        "wide": [0.5, None, 2.0],
        "is": [True, False, True],
        "maybe": [None, False, True],
        "note": ["x", None, "\udcfe"],
    }
    metadata = {
        name: {key: value for key, value in zip(keys, values, strict=True) if value is not None}
        for name, values in columns.items()
    }
    source = Pictures(dict.fromkeys(keys, 1), {b"a": "2", b"b": "10", b"c": "2"}, metadata=metadata)
    frame = build(tmp_path / "s", source).to_pandas()
    types = {name: str(frame[name].dtype) for name in frame.columns}
    assert types == {
        "key": "string",
        "id": "int64",
        "whole": "int64",
        "gaps": "Int64",
        "wide": "float64",
        "is": "bool",
        "maybe": "boolean",
        "note": "string",
        "label": "category",
        "split": "category",
    }
    assert frame["label"].cat.categories.tolist() == ["2", "10"]
    assert frame["split"].isna().all()
    for name, values in columns.items():
        assert [None if value is pd.NA or value != value else value for value in frame[name].tolist()] == values


def test_data_frame_keeps_names_that_are_not_utf8(tmp_path):
    source = Pictures({b"odd-\xff": 1, b"plain": 2}, {b"plain": "l\udcff"}, metadata={"note": {b"odd-\xff": "\udcfe"}})
    store = build(tmp_path / "s", source)
    frame = store.to_pandas()
    assert frame["key"].tolist() == ["odd-\udcff", "plain"]
    assert frame["note"].tolist() == ["\udcfe", pd.NA]
    assert frame["label"].tolist()[1] == "l\udcff"
    assert store.index_of(frame["key"].tolist()).tolist() == [0, 1]


def test_values_of_a_store_column_read_in_parts_are_complete(tmp_path, monkeypatch):
    made = Pictures({f"{number:02d}.jpg".encode(): number for number in range(12)})
    made.labels = {key: f"class {number % 5}" for key, number in made.content.items() if number % 4}
    monkeypatch.setattr(feature_store, "_LOOKED_UP", 5)
    store = build(tmp_path / "s", made)
    expected = [made.labels.get(key.encode()) for key in store.keys]
    assert store.labels.tolist() == expected
    assert len(set(expected)) == 6
