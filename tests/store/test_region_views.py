"""Regions of one picture can be combined into one row, and stay together in splits, folds, duplicates and searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featstore import splits
from featstore.errors import UsageError
from featstore.stages.duplicates import find_duplicates
from featstore.stages.index import index
from featstore.stages.predict import predict
from featstore.stages.queries import Query
from featstore.stages.search import search
from featstore.stages.train import train, train_again
from featstore.store import FeatureStore
from featstore.store.splitting import equal_content, groups_of, split_store
from featstore.where import rows_where
from tests.store import building
from tests.store.building import D, Pictures, build

PICTURES, REGIONS = 12, 4


def made(splits: dict[bytes, str] | None = None) -> Pictures:
    keys = [b"%02d.jpg#%d" % (number, region) for number in range(PICTURES) for region in range(REGIONS)]
    return Pictures(
        dict.fromkeys(keys, 1) | {b"03.jpg#2": -1} | dict.fromkeys((b"05.jpg#%d" % at for at in range(REGIONS)), -2),
        labels={key: "odd" if int(key[:2]) % 2 else "even" for key in keys},
        splits=splits or {},
        regions={key: (int(key[7:]), 2, 3, 4, 6) for key in keys},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    """Return the path of a store of regions, in which all regions of a picture have the same SHA-256."""
    place = tmp_path_factory.mktemp("regions") / "s"
    with pytest.MonkeyPatch.context() as patch:
        real = building.sha256
        patch.setattr(building, "sha256", lambda key, content: real(key.partition(b"#")[0], content))
        build(place, made())
    return place


def test_region_vectors_of_a_picture_are_combined_by_mean_or_maximum(path):
    store = FeatureStore.open(path)
    features = np.asarray(store.features(), np.float64)
    for how in ("mean", "max"):
        names, vectors = store.by_parent(how)
        assert names == [f"{number:02d}.jpg" for number in range(PICTURES) if number != 5]
        expected = [getattr(features[store.parents == name], how)(axis=0) for name in names]
        np.testing.assert_allclose(vectors, expected, rtol=1e-6)
        assert (vectors.identity, vectors.dtype) == (store.identity, np.float32)
    with pytest.raises(UsageError, match="by mean or max, not by 'sum'"):
        store.by_parent("sum")


def test_columns_of_a_store_contain_parent_and_box_of_each_region(path):
    store = FeatureStore.open(path)
    assert rows_where(store, "parent == '03.jpg' and x >= 1").sum() == 2
    frame = store.to_pandas()
    assert (frame["parent"].iloc[0], frame["w"].iloc[0], str(frame["h"].dtype)) == ("00.jpg", 3, "int64")
    assert store.to_arrow().column("x").to_pylist()[:4] == [0, 1, 2, 3]


def test_regions_of_one_picture_are_in_one_split_and_one_fold(path):
    store = FeatureStore.open(path)
    split = split_store(store)
    assert not set(store.parents[split.train]) & set(store.parents[split.test])
    groups = groups_of(store, np.arange(len(store)))
    fold = splits.folds(store.labels.astype(str), groups=groups, count=3, seed=0)
    assert all(len(set(fold[store.parents == parent])) == 1 for parent in set(store.parents))
    apart = split_store(store, apart=True)
    assert set(store.parents[apart.train]) & set(store.parents[apart.test])


def test_train_again_with_regions_in_different_splits_gives_equal_weights(path, tmp_path):
    trained = train(path, out=tmp_path / "h", C=1.0, apart=True)
    assert set(FeatureStore.open(path).parents[trained.split.test]) & set(
        FeatureStore.open(path).parents[trained.split.train]
    )
    assert train_again(tmp_path / "h").equal


def test_regions_of_one_picture_stay_together_even_if_their_digests_differ(tmp_path):
    # Do not use the fixture ``path``, which patches SHA-256: in this store each region has a different SHA-256.
    store = build(tmp_path / "s", made())
    groups = groups_of(store, np.arange(len(store)))
    assert len(set(groups.tolist())) == PICTURES - 1
    assert len(set(equal_content(store).tolist())) == len(store)


def test_picture_with_regions_in_two_given_splits_is_reported(tmp_path):
    given = {key: "train" if int(key[7:]) < 2 or int(key[:2]) > 7 else "test" for key in made().content}
    split = split_store(build(tmp_path / "s", made(given)))
    assert (split.kind, split.parents, split.to_dict()["parents_in_both"]) == ("given", 7, 7)
    assert any(note.startswith("7 pictures have regions in both splits: the figures") for note in split.notes())


def test_duplicate_regions_of_one_picture_are_reported_only_with_option_within(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "vector", lambda key, content: np.eye(D, dtype=np.float32)[content])
    source = made()
    source.content = {key: int(key[7:]) % 3 for key in source.content if key[:2] in (b"00", b"01")}
    source.content[b"00.jpg#3"] = 3
    build(tmp_path / "s", source)
    groups = [{copy.key for copy in group.copies} for group in find_duplicates(tmp_path / "s").groups]
    assert groups == [{"00.jpg#0", "01.jpg#0", "01.jpg#3"}, {"00.jpg#1", "01.jpg#1"}, {"00.jpg#2", "01.jpg#2"}]
    del source.content[b"00.jpg#0"]
    build(tmp_path / "t", source)
    assert len(find_duplicates(tmp_path / "t").groups) == 2
    assert len(find_duplicates(tmp_path / "t", within=True).groups) == 3


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_predictions_for_regions_are_combined_per_picture(path, tmp_path, pool):
    head = train(path, out=tmp_path / "h", C=1.0).head
    store = FeatureStore.open(path)
    alone = {one.key: one for one in predict(head, path)}
    joined = {one.key: one for one in predict(head, path, by="parent", pool=pool)}
    assert list(joined)[-1] == "05.jpg"
    assert (len(joined), joined["05.jpg"].label, joined["05.jpg"].reason) == (PICTURES, None, "corrupt")
    for parent in set(store.parents):
        rows = [alone[key].probabilities for key in np.array(store.keys[:])[store.parents == parent]]
        np.testing.assert_allclose(joined[parent].probabilities, getattr(np.array(rows), pool)(axis=0))
        assert joined[parent].label == head.classes[int(joined[parent].probabilities.argmax())]
    with pytest.raises(UsageError, match="only predictions for a store are joined by parent"):
        predict(head, "a.jpg", by="parent")


def test_search_by_parent_returns_only_the_best_region_of_each_picture(path, tmp_path):
    index(path, out=tmp_path / "i.faiss", kind="flat")
    query = Query(keys=["00.jpg#1"])
    everything = search(tmp_path / "i.faiss", like=query, k=60).queries[0].neighbours
    best: dict[str, str] = {}
    for found in everything:
        best.setdefault(found.key[:6], found.key)
    del best["00.jpg"]
    for k in (3, 60):
        joined = search(tmp_path / "i.faiss", like=query, k=k, by="parent").queries[0].neighbours
        assert [found.key for found in joined] == list(best.values())[:k]
    kept = search(tmp_path / "i.faiss", like=query, k=3, by="parent", where="x == 0").queries[0].neighbours
    assert all(found.key.endswith("#0") for found in kept)
    assert len(kept) == 3
