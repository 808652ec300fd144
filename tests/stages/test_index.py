from __future__ import annotations

import os
import shutil
import threading

import numpy as np
import pytest

from featstore.artifacts import index_path, is_index, open_index, staleness
from featstore.errors import IdentityError, UsageError
from featstore.indexes import read_ann_benchmark
from featstore.stages import index as stage
from featstore.stages.index import export_store, index
from featstore.stages.info import info
from featstore.stages.search import Query, search
from featstore.store import FeatureStore
from featstore.store.labels import set_columns
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone


def keys_by_plain_faiss(path, store, key, k=1):
    """Search the index file with FAISS, without featstore, for the vector of ``key``; return the keys that belong to
    the found ids.
    """
    import faiss

    index = faiss.read_index(os.fspath(path))
    vector = np.array(store.features(rows=store.index_of([key])), np.float32)
    faiss.normalize_L2(vector)
    _, ids = index.search(vector, k)
    rows = store.rows_of_ids(ids[0])
    return [None if row < 0 else store.keys[row] for row in rows.tolist()]


def test_ids_of_an_updated_index_belong_to_the_right_keys(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 6))
    (folder / "ant/03.png").write_bytes(b"no picture")
    store = make_store(folder, tmp_path / "s", unit_rows=4)
    report = index(store)
    assert (report.added, report.info["rows"]) == (11, 11)
    (folder / "bee/02.png").unlink()
    write_coloured(folder, ["ant/20.png", "bee/20.png", "cow/20.png"], seed=5)
    make_store(folder, store, unit_rows=4)
    opened = FeatureStore.open(store)
    assert "1 of the index is gone" in staleness(open_index(report.path), opened)
    assert "3 pictures are not in the index" in staleness(open_index(report.path), opened)
    report = index(store, update=True)
    assert (report.added, report.removed, report.info["rows"]) == (3, 1, 13)
    grown = open_index(report.path)
    assert staleness(grown, opened) == ""
    assert sorted(grown.ids.tolist()) == opened.ids.tolist()
    assert [key.decode() for key in grown.keys_of(opened.ids)] == list(opened.keys)
    assert grown.labels_of(opened.ids) == opened.labels.tolist()
    for key in opened.keys:
        assert keys_by_plain_faiss(report.path, opened, key) == [key]
    report = index(store, update=True)
    assert (report.added, report.removed) == (0, 0)


def test_index_report_contains_the_recall_and_the_feature_identity(chain):
    report = index(chain.store, out=chain.place / "again.faiss", kind="hnsw").to_dict()
    assert report["rows"] == 30
    assert report["recall"]["k"] == 10
    assert report["identity"] == FeatureStore.open(chain.store).identity.to_dict()
    assert chain.index == index_path(chain.store)


def test_index_rejects_invalid_arguments(chain, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no index"):
        index(chain.store, out=tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not is_index(tmp_path / "mine.txt")
    with pytest.raises(UsageError, match="no such index"):
        index(chain.store, out=tmp_path / "none.faiss", update=True)
    with pytest.raises(UsageError, match="is a folder"):
        open_index(tmp_path)
    same = make_store(chain.folder, tmp_path / "same")
    with pytest.raises(UsageError, match="another store"):
        index(same, out=chain.index, update=True)
    other = make_store(chain.folder, tmp_path / "other", backbone=tiny_backbone(1))
    with pytest.raises(IdentityError, match="weights"):
        index(other, out=chain.index, update=True)


def test_new_index_does_not_replace_an_index_of_another_existing_store(chain, tmp_path):
    store = make_store(chain.folder, tmp_path / "s")
    path = index_path(store)
    index(store)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"s\.faiss: is the index of another store \(.*/s\); name another file"):
        index(chain.store, out=path)
    assert path.read_bytes() == before
    shutil.move(store, tmp_path / "moved")
    index(tmp_path / "moved", out=path)
    store = make_store(chain.folder, tmp_path / "moved again")
    index(store)
    shutil.rmtree(store)
    make_store(chain.folder, store)
    # The store at this path is a new store with another id. Its index may replace the index of the deleted store.
    index(store)
    path.with_name("s.faiss.featstore").write_bytes(b"damaged")
    assert index(chain.store, out=path).added == 30


def test_index_refuses_an_impossible_memory_limit_and_reports_the_recall(chain, tmp_path):
    with pytest.raises(UsageError, match="memory and latency choose the kind of index"):
        index(chain.store, out=tmp_path / "x", kind="flat", memory=1 << 30)
    with pytest.raises(UsageError, match="no kind of index fits: flat needs some"):
        index(chain.store, out=tmp_path / "x", memory=9)
    assert not (tmp_path / "x").exists()
    report = index(chain.store, out=tmp_path / "x", recall=0.99, at=3)
    assert report.info["exact"]
    assert report.info["contract"]["at"] == 3
    assert report.to_dict()["holds"] is True
    assert index(chain.store, out=tmp_path / "y").to_dict()["holds"] is None


def test_store_is_exported_as_an_ann_benchmarks_file(chain, tmp_path):
    assert export_store(chain.store, tmp_path / "x.hdf5", k=5) == 3
    read = read_ann_benchmark(tmp_path / "x.hdf5")
    assert read.train.shape == (27, 8)
    assert read.neighbors.shape == (3, 5)
    kept = np.concatenate(list(read.train.blocks()))
    whole = FeatureStore.open(chain.store).features()
    assert sorted(map(tuple, np.concatenate([kept, read.test]).tolist())) == sorted(map(tuple, whole.tolist()))
    small = make_store(write_coloured(tmp_path / "p", names("", 2)), tmp_path / "s")
    with pytest.raises(UsageError, match="some ten are needed"):
        export_store(small, tmp_path / "y.hdf5")


@pytest.mark.parametrize(("kind", "left"), [("flat", 0), ("hnsw", 1)])
def test_index_update_deletes_removed_pictures_from_an_exact_index(tmp_path, kind, left):
    import faiss

    folder = write_coloured(tmp_path / "p", names("", 6))
    store = make_store(folder, tmp_path / "s")
    report = index(store, kind=kind)
    gone = FeatureStore.open(store).ids[FeatureStore.open(store).index_of(["bee/02.png"])][0]
    (folder / "bee/02.png").unlink()
    make_store(folder, store)
    report = index(store, update=True)
    assert (report.removed, report.info["rows"], report.info["removed"]) == (1, 11, left)
    plain = faiss.read_index(report.path)
    ids = faiss.vector_to_array(plain.id_map)
    assert (gone in ids) == bool(left)
    opened = FeatureStore.open(store)
    assert (opened.rows_of_ids(ids) < 0).sum() == left
    assert index(store, update=True).removed == 0


def test_second_concurrent_build_of_an_index_is_refused(chain, tmp_path, monkeypatch):
    real, told = stage._build, []

    def build(*arguments):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return real(*arguments)

    def second():
        for update in (False, True):
            with pytest.raises(UsageError, match="is writing this index; wait until it is done") as caught:
                index(chain.store, out=tmp_path / "x", update=update)
            told.append(str(caught.value))

    monkeypatch.setattr(stage, "_build", build)
    index(chain.store, out=tmp_path / "x")
    assert len(told) == 2


def test_index_refuses_a_too_long_file_name_before_building(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_build", lambda *_: pytest.fail("worked"))
    with pytest.raises(UsageError, match="its name has 250 bytes, where 240 fit"):
        index(chain.store, out=tmp_path / ("x" * 250))


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_index_update_reports_and_copies_changed_labels(tmp_path, kind):
    store = make_store(write_coloured(tmp_path / "p", names("", 6)), tmp_path / "s")
    path = index(store, kind=kind).path
    before = open_index(path).vectors_of(FeatureStore.open(store).ids)
    set_columns(store, [b"ant/00.png", b"bee/01.png"], {"label": ["wasp", None]})
    told = info(path)["stale"]
    assert "2 pictures have another label; bring it up to date with: featstore index" in told
    assert search(path, like=Query(keys=["ant/01.png"])).notes[-1:] == [told]
    report = index(store, out=path, update=True)
    assert (report.added, report.removed, report.relabelled) == (0, 0, 2)
    opened, now = open_index(path), FeatureStore.open(store)
    assert opened.labels_of(now.ids) == now.labels.tolist()
    assert (opened.vectors_of(now.ids) == before).all()
    assert info(path)["stale"] == ""
    set_columns(store, [b"ant/00.png"], {"note": ["of another column"]})
    assert info(path)["stale"] == ""
    assert index(store, out=path, update=True).relabelled == 0
