from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from featstore.errors import IdentityError, UsageError
from featstore.stages.index import index
from featstore.stages.queries import Query
from featstore.stages.search import search
from featstore.store import FeatureStore
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone


def test_search_finds_the_query_picture_first_and_then_its_class(chain):
    paths = [chain.folder / "val/ant/02.png", chain.folder / "train/bee/05.png"]
    report = search(chain.index, paths, k=4, backbone=tiny_backbone())
    assert (report.rows, report.failures, report.notes) == (30, 0, [])
    assert [query.neighbours[0].key for query in report.queries] == ["val/ant/02.png", "train/bee/05.png"]
    for query, label in zip(report.queries, ("ant", "bee"), strict=True):
        assert query.neighbours[0].score == pytest.approx(1, abs=1e-5)
        scores = [found.score for found in query.neighbours]
        assert scores == sorted(scores, reverse=True)
        assert [found.label for found in query.neighbours] == [label] * 4
    json.dumps(report.to_dict(), allow_nan=False)


def test_search_accepts_k_above_the_number_of_pictures_and_an_unreadable_query(chain, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    report = search(
        chain.index, [tmp_path / "bad.jpg", chain.folder / "val/ant/00.png"], k=99, backbone=tiny_backbone()
    )
    assert report.failures == 1
    assert (report.queries[0].reason, report.queries[0].neighbours) == ("not-a-picture", [])
    assert len(report.queries[1].neighbours) == 30


def test_search_has_a_note_if_the_store_grew_or_is_missing(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 3))
    store = make_store(folder, tmp_path / "s")
    indexed = index(store).path
    query = folder / "ant/00.png"
    write_coloured(folder, ["ant/70.png"], seed=3)
    make_store(folder, store)
    (note,) = search(indexed, query, backbone=tiny_backbone()).notes
    assert "1 picture is not in the index" in note
    # Copy index and store to another folder: the index then finds the store beside it by name.
    shutil.copytree(store, tmp_path / "moved/s")
    for end in ("", ".featstore"):
        shutil.copy(indexed + end, tmp_path / f"moved/s.faiss{end}")
    shutil.rmtree(store)
    report = search(tmp_path / "moved/s.faiss", query, backbone=tiny_backbone())
    assert report.store is not None
    assert report.store.path == tmp_path / "moved/s"
    report = search(indexed, query, backbone=tiny_backbone())
    assert report.store is None
    assert "not there any more" in report.notes[0]


def test_search_rejects_invalid_arguments(chain, tmp_path):
    with pytest.raises(IdentityError, match="weights"):
        search(chain.index, chain.folder, backbone=tiny_backbone(3))
    with pytest.raises(UsageError, match="no such index"):
        search(tmp_path / "none.faiss", chain.folder)
    with pytest.raises(UsageError, match="nothing to look up"):
        search(chain.index, [])
    with pytest.raises(UsageError, match="at least 1"):
        search(chain.index, chain.folder, k=0)


@pytest.fixture(scope="module")
def unit(chain):
    """Return the vectors of the store by key, normalised to length 1."""
    store = FeatureStore.open(chain.store)
    vectors = store.features() / np.linalg.norm(store.features(), axis=1, keepdims=True)
    return dict(zip(store.keys, vectors, strict=True))


def ranked(unit, vector, left_out=()):
    """Return the keys, except those in ``left_out``, sorted by decreasing cosine with ``vector``."""
    scores = {key: float(one @ vector / np.linalg.norm(vector)) for key, one in unit.items() if key not in left_out}
    return sorted(scores, key=lambda key: -scores[key])


def test_query_by_key_excludes_the_picture_itself(chain, unit):
    keys = ["val/ant/02.png", "train/bee/05.png", "val/ant/02.png"]
    report = search(chain.index, like=Query(keys=keys), k=30)
    assert [query.name for query in report.queries] == keys
    for query in report.queries:
        assert query.key == query.name
        assert len(query.neighbours) == 29
        assert query.neighbours[0].key == ranked(unit, unit[query.name], [query.name])[0]
    with pytest.raises(UsageError, match="1 of 2 keys has no vector here"):
        search(chain.index, like=Query(keys=["val/ant/02.png", "x"]))


def test_query_vectors_are_read_from_files_and_arrays(chain, unit, tmp_path):
    several = np.array([unit["val/ant/02.png"], unit["train/bee/05.png"]], np.float64) * 3
    np.save(tmp_path / "several.npy", several)
    np.save(tmp_path / "one.npy", several[1].astype(">f4"))
    given = [tmp_path / "several.npy", tmp_path / "one.npy", several[:1]]
    report = search(chain.index, like=Query(vectors=given), k=1)
    names = [f"{given[0]}[0]", f"{given[0]}[1]", f"{given[1]}", "vectors 2[0]"]
    assert [query.name for query in report.queries] == names
    found = [query.neighbours[0].key for query in report.queries]
    assert found == ["val/ant/02.png", "train/bee/05.png", "train/bee/05.png", "val/ant/02.png"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 7)), r"of the shape \(2, 7\), where numbers of the shape \(q, 8\) or \(8,\) are needed"),
        (np.zeros((1, 1, 8)), "of the shape"),
        (np.float32(1), "of the shape"),
        (np.zeros(8, complex), "holds complex128"),
        (np.full((2, 8), np.nan), "row 0 holds NaN"),
        (np.array([{}] * 8, object), "no array that can be read"),
        (None, "no array that can be read"),
    ],
)
def test_search_rejects_invalid_query_vectors(chain, tmp_path, array, message):
    path = tmp_path / "x.npy"
    if array is None:
        path.write_bytes(b"\x93NUMPY\x01\x00")
    else:
        np.save(path, array, allow_pickle=True)
    with pytest.raises(UsageError, match=message):
        search(chain.index, like=Query(vectors=[path]))
    with pytest.raises(UsageError, match="no such file"):
        search(chain.index, like=Query(vectors=[tmp_path / "none.npy"]))


def test_query_by_class_uses_the_mean_vector_of_the_class(chain, unit):
    report = search(chain.index, like=Query(labels=["bee", "ant"]), k=30)
    for query, label in zip(report.queries, ("bee", "ant"), strict=True):
        middle = np.mean([one for key, one in unit.items() if f"/{label}/" in key], axis=0)
        assert [found.key for found in query.neighbours][:5] == ranked(unit, middle)[:5]
        assert label in query.name
    with pytest.raises(UsageError, match="no picture has the label 'cow'; there are: ant, bee"):
        search(chain.index, like=Query(labels=["cow"]))


def test_combined_query_is_the_weighted_mean_of_its_parts(chain, unit, tmp_path):
    picture, key, away = chain.folder / "val/ant/01.png", "train/ant/03.png", "train/bee/05.png"
    middle = (unit["val/ant/01.png"] + unit[key]) / 2
    options = {"backbone": tiny_backbone(), "k": 30}
    (query,) = search(chain.index, picture, like=Query(keys=[key]), combine=True, **options).queries
    assert [found.key for found in query.neighbours][:8] == ranked(unit, middle, [key])[:8]
    assert query.neighbours[0].score < 1
    less = Query(keys=[away], inputs=[chain.folder / "val/bee/00.png"])
    (query,) = search(chain.index, picture, like=Query(keys=[key]), less=less, less_weight=2.0, **options).queries
    wanted = middle + 2 * (middle - (unit[away] + unit["val/bee/00.png"]) / 2)
    found = [found.key for found in query.neighbours]
    assert found[:8] == ranked(unit, wanted, [key, away])[:8]
    assert {key, away}.isdisjoint(found)
    assert " + " in query.name
    assert f" - {away}" in query.name
    (tmp_path / "bad.jpg").write_bytes(b"x")
    report = search(chain.index, [picture, tmp_path / "bad.jpg"], combine=True, **options)
    assert (report.failures, report.queries[0].reason, len(report.queries)) == (1, "not-a-picture", 1)


def test_search_filter_keeps_only_matching_rows(chain):
    like = Query(keys=["val/ant/02.png"])
    report = search(chain.index, like=like, where="split == 'val' and label != 'ant'", k=30)
    assert report.kept == 5
    assert {found.key for found in report.queries[0].neighbours} == {f"val/bee/{number:02d}.png" for number in range(5)}
    assert json.loads(json.dumps(report.to_dict()))["where"] == "split == 'val' and label != 'ant'"
    none = search(chain.index, like=like, where="label == 'cow'")
    assert (none.kept, none.queries[0].neighbours) == (0, [])
    assert none.notes[-1].startswith("no picture has the label ")
    with pytest.raises(UsageError, match="^filter, character 7:"):
        search(chain.index, like=like, where="label = 'ant'")


def test_search_by_key_class_or_filter_requires_the_store(chain, tmp_path):
    store = shutil.copytree(chain.store, tmp_path / "s")
    indexed = index(store).path
    shutil.rmtree(store)
    for options in ({"like": Query(keys=["a"])}, {"like": Query(labels=["a"])}, {"where": "id == 1"}):
        with pytest.raises(UsageError, match="is not there any more: keys, classes and filters need it"):
            search(indexed, **{"like": Query(vectors=[np.ones(8)]), **options})
    assert len(search(indexed, like=Query(vectors=[np.ones(8)]), k=3).queries[0].neighbours) == 3
    with pytest.raises(UsageError, match="weight"):
        search(indexed, like=Query(vectors=[np.ones(8)]), less_weight=0)
