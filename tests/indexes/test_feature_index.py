from __future__ import annotations

import json
import tempfile
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import defaults
from featstore.errors import UsageError
from featstore.indexes import About, FeatureIndex, build_index
from featstore.indexes.blocks import Metric
from tests.indexes.made import Source, best_scores, brute_force, clusters
from tests.store.building import identity

METRICS = st.sampled_from(["cosine", "l2", "ip"])
KINDS = st.sampled_from(["flat", "hnsw"])


def index_of(rows: int = 100, dimension: int = 8, **options: object) -> FeatureIndex:
    vectors = clusters(rows, dimension)
    return build_index(vectors, np.arange(rows) * 3, [f"key {row}" for row in range(rows)], **options)


@given(METRICS, st.integers(1, 60), st.integers(1, 12), st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=80)
def test_filtered_search_equals_brute_force(
    metric: Metric, rows: int, k: int, seed: int, kept: float, removed: float
) -> None:
    random = np.random.default_rng(seed)
    vectors, queries = clusters(rows, 5, seed), clusters(3, 5, seed + 1)
    queries[1] = 0
    ids = random.choice(1 << 62, rows, replace=False)
    index = build_index(vectors, ids, [b"%d" % number for number in ids], metric=metric, kind="flat")
    allowed, live = random.random(rows) < kept, random.random(rows) >= removed
    index.remove(ids[~live])
    asked = np.r_[ids[allowed], [7, 8]] if seed % 3 else None
    scores, found = index.search(queries, k, allowed_ids=asked)
    mask = live & allowed if asked is not None else live
    truth = brute_force(vectors, queries, metric, mask)
    np.testing.assert_allclose(scores, best_scores(truth, k, metric), rtol=1e-5, atol=1e-5)
    place = {int(number): row for row, number in enumerate(ids)}
    for query in range(3):
        names = [place[number] for number in found[query] if number >= 0]
        assert len(set(names)) == len(names) == min(k, mask.sum())
        np.testing.assert_allclose(truth[query, names], scores[query, : len(names)], rtol=1e-5, atol=1e-5)
    assert index.keys_of(found) == [b"%d" % number if number >= 0 else b"" for number in found.ravel()]


@given(KINDS, st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=25)
def test_index_ids_keep_their_keys_and_vectors_after_removals_and_additions(
    kind: str, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    vectors = clusters(120, 6, seed)
    ids = np.sort(random.choice(10**6, 120, replace=False)) if seed % 2 else random.permutation(10**6)[:120]
    keys = [b"key of %d" % number for number in ids]
    index = build_index(vectors[:80], ids[:80], keys[:80], kind=kind)
    present = set(range(80))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        index.save(path)
        for stop in (100, 120):
            index = FeatureIndex.open(path, mmap=data.draw(st.booleans()))
            gone = random.choice(sorted(present), 15, replace=False)
            assert index.remove(ids[gone]) == 15
            start = stop - 20
            index.add(Source(vectors[start:stop]), ids[start:stop], keys[start:stop], generation=stop)
            index.save(path)
            present = (present - set(gone.tolist())) | set(range(start, stop))
        plain = faiss.read_index(str(path))
        _, nearest = plain.search(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 1)
        assert (nearest[:, 0] == ids).mean() > 0.95
        opened = FeatureIndex.open(path)
    assert len(opened) == len(present)
    assert opened.generation == 120
    np.testing.assert_array_equal(opened.ids, np.sort(ids[sorted(present)]))
    _, found = opened.search(vectors, 1)
    rows = np.array(sorted(present))
    assert (found[rows, 0] == ids[rows]).mean() > 0.95
    for number, key in zip(found[:, 0], opened.keys_of(found[:, 0]), strict=True):
        assert key == b"key of %d" % number
    assert set(found[:, 0]) <= set(ids[rows])


@given(METRICS, KINDS, st.integers(0, 10**6), st.booleans())
@settings(deadline=None, max_examples=15)
def test_saved_and_reopened_index_gives_equal_results(metric: Metric, kind: str, seed: int, mmap: bool) -> None:
    vectors = clusters(100, 6, seed)
    labels = [None if row % 3 else f"class {row % 4}" for row in range(100)]
    index = build_index(
        vectors,
        np.arange(100) * 5,
        [b"\xff%d" % row for row in range(100)],
        metric=metric,
        kind=kind,
        about=About(labels, identity(), {"store": "x"}, 4),
    )
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "x")
        back = FeatureIndex.open(Path(folder) / "x", mmap=mmap)
    for one, other in zip(index.search(vectors, 4), back.search(vectors, 4), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {**back.info(), "path": None} == {**index.info(), "path": None}
    assert json.loads(json.dumps(back.info())) == back.info()
    assert (back.identity, back.fingerprint, back.generation) == (identity(), identity().fingerprint, 4)
    assert back.labels_of(np.arange(100) * 5) == labels
    assert back.keys_of([10]) == [b"\xff2"]
    np.testing.assert_allclose(back.vectors_of([10]), index.vectors_of([10]))


def test_search_pads_missing_neighbours_and_accepts_zero_queries() -> None:
    index = index_of(3)
    scores, ids = index.search(clusters(2, 8), 5)
    assert (ids[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()
    assert index.search(np.zeros((0, 8), np.float32), 5)[1].shape == (0, 5)
    assert index.remove([0, 3, 6, 999]) == 3
    assert (index.search(clusters(2, 8), 5)[1] == -1).all()
    assert len(index) == 0


def test_search_accepts_float16_float64_and_zero_queries() -> None:
    index = index_of()
    queries = clusters(4, 8, 3)
    expected = index.search(queries, 3)[1]
    np.testing.assert_array_equal(index.search(queries.astype(np.float64) * 9, 3)[1], expected)
    assert (index.search(np.zeros((1, 8), np.float16), 3)[0] == 0).all()


def test_index_rejects_invalid_queries_and_unknown_ids() -> None:
    index = index_of()
    for queries, words in ((clusters(1, 9), "backbone"), (np.full((1, 8), np.nan, np.float32), "NaN")):
        with pytest.raises(UsageError, match=words):
            index.search(queries, 3)
    with pytest.raises(UsageError, match="at least 1"):
        index.search(clusters(1, 8), 0)
    with pytest.raises(UsageError, match="no row 1"):
        index.keys_of([0, 1])
    with pytest.raises(UsageError, match="no row"):
        index.vectors_of([-1])


def test_refused_addition_does_not_change_the_index() -> None:
    index = index_of()
    bad = clusters(3, 8)
    bad[2] = np.nan
    for vectors, ids, words in (
        (bad, [1, 2, 4], "NaN"),
        (clusters(3, 8), [1, 2, 3], "row 3 is in the index already"),
        (clusters(3, 9), [1, 2, 4], "9 dimensions"),
        (clusters(3, 8), [1, 2], "2 ids"),
    ):
        with pytest.raises(UsageError, match=words):
            index.add(vectors, np.array(ids), ["a", "b", "c"])
    assert len(index) == 100
    index.add(clusters(3, 8), np.array([1, 2, 4]), ["a", "b", "c"], labels=["x", None, "y"])
    assert index.keys_of([2, 3]) == [b"b", b"key 1"]
    assert index.labels_of([1, 2, 4, 3, -1]) == ["x", None, "y", None, None]


def test_index_built_without_a_feature_identity_has_none() -> None:
    index = index_of()
    assert (index.identity, index.fingerprint, index.info()["identity"]) == (None, "", {})


def test_stale_index_reports_rows_only_in_the_store_and_rows_only_in_the_index() -> None:
    index = index_of(4, about=About(generation=2))
    fresh = index.staleness(2, np.array([0, 3, 6, 9], np.uint64))
    assert fresh.fresh
    assert not fresh.older
    assert str(fresh) == "up to date"
    stale = index.staleness(3, np.array([0, 3, 12, 15, 18]))
    assert stale.missing.tolist() == [12, 15, 18]
    assert stale.gone.tolist() == [6, 9]
    assert stale.older
    assert "3 rows that the index lacks and lacks 2" in str(stale)


def test_rows_of_an_interrupted_addition_are_not_searched(tmp_path: Path) -> None:
    class Failing(Source):
        def blocks(self):
            for number, block in enumerate(super().blocks()):
                if self.passes == 2 and number == 1:
                    raise OSError("disk")
                yield block

    index = index_of()
    index.save(tmp_path / "x")
    with pytest.raises(OSError, match="disk"):
        index.add(Failing(clusters(30, 8)), np.arange(30) * 3 + 1, ["new"] * 30)
    for call in (lambda: index.search(clusters(1, 8), 1), lambda: index.save(tmp_path / "x")):
        with pytest.raises(Exception, match="open it again"):
            call()
    assert len(FeatureIndex.open(tmp_path / "x")) == 100


@pytest.mark.parametrize("kept", [2, 500, 9000])
@pytest.mark.parametrize("scan_bytes", [0, 1 << 30])
def test_filtered_graph_search_agrees_with_brute_force(
    kept: int, scan_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = clusters(20_000, 8, centres=500), clusters(40, 8, seed=1)
    index = build_index(vectors, np.arange(20_000) + 5, [b"k"] * 20_000, kind="hnsw")
    monkeypatch.setattr(defaults, "EXACT_SCAN_BYTES", scan_bytes)
    chosen = np.random.default_rng(0).choice(20_000, kept, replace=False)
    mask = np.isin(np.arange(20_000), chosen)
    scores, found = index.search(queries, 10, allowed_ids=chosen + 5)
    expected = best_scores(brute_force(vectors, queries, "cosine", mask), 10, "cosine")
    right = np.isclose(scores, expected, atol=1e-5) | (scores == expected)
    assert right.mean() > (0.9 if kept == 9000 and not scan_bytes else 0.9999)
    assert mask[found[found >= 0] - 5].all()
    assert ((found >= 0).sum(axis=1) == min(10, kept)).all()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("k", [1, 9, 12])
def test_searching_one_query_equals_searching_a_batch(metric: Metric, k: int) -> None:
    index = index_of(9, metric=metric)
    queries = clusters(9, 8)
    queries[4] = 0
    scores, found = index.search(queries, k)
    for row, query in enumerate(queries):
        for asked in (query[None], query.astype(np.float64)[None], np.repeat(query, 2)[None, ::2]):
            one_scores, one_found = index.search(asked, k)
            np.testing.assert_allclose(one_scores[0], scores[row], rtol=1e-5, atol=1e-5)
            assert row == 4 or (one_found[0] == found[row]).all()
            assert metric != "cosine" or np.abs(one_scores[one_found >= 0]).max() <= 1
    with pytest.raises(UsageError, match="backbone"):
        index.search(np.zeros((1, 9), np.float32), k)
    with pytest.raises(UsageError, match="NaN"):
        index.search(np.full((1, 8), np.nan, np.float32), k)


def test_search_restores_the_thread_count_of_faiss() -> None:
    index, before = index_of(9), faiss.omp_get_max_threads()
    for threads in (None, before, before + 1):
        index.search(clusters(1, 8), 1, threads=threads)
        assert faiss.omp_get_max_threads() == before
    with pytest.raises(UsageError):
        index.search(clusters(1, 8), 0, threads=before + 1)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("single", [True, False])
def test_graph_index_returns_k_neighbours_from_clusters_without_links(metric: Metric, single: bool) -> None:
    # The clusters are so far apart that the graph has no links between them.
    vectors = clusters(1200, 16, centres=6) + 40 * np.eye(16, dtype=np.float32)[np.arange(1200) % 6]
    index = build_index(vectors, np.arange(1200) * 3, [b"k"] * 1200, metric=metric, kind="hnsw")
    queries = vectors[:1] if single else vectors[:5]
    prepared = np.ascontiguousarray(index.vectors_of(np.arange(5) * 3)[: len(queries)])
    assert (index._index.search(prepared, 1000)[1] < 0).any(), "the graph reaches all: this test tests nothing"
    scores, ids = index.search(queries, 1000)
    assert all(len(set(row)) == 1000 for row in ids.tolist())
    assert (ids >= 0).all()
    np.testing.assert_allclose(
        scores, best_scores(brute_force(vectors, queries, metric), 1000, metric), rtol=1e-3, atol=2e-3
    )
    assert ((index.search(queries, 1500)[1] >= 0).sum(axis=1) == 1200).all()


@pytest.mark.parametrize("mmap", [False, True])
def test_purge_deletes_removed_rows_of_an_exact_index(tmp_path: Path, mmap: bool) -> None:
    vectors = clusters(60, 8)
    build_index(vectors, np.arange(60)[::-1] * 5, [b"%d" % row for row in range(60)], kind="flat").save(tmp_path / "x")
    index = FeatureIndex.open(tmp_path / "x", mmap=mmap)
    gone = np.array([0, 35, 295])
    assert index.remove(gone) == 3
    assert (index.purge(), index.purge()) == (3, 0)
    assert (index.info()["removed"], index.info()["rows"], index.info()["measured_rows"]) == (0, 57, 57)
    index.save(tmp_path / "x")
    plain = faiss.read_index(str(tmp_path / "x"))
    assert plain.ntotal == 57
    _, found = plain.search(vectors, 57)
    assert not np.isin(found, gone).any()
    back = FeatureIndex.open(tmp_path / "x")
    for row in range(60):
        if row * 5 not in gone:
            expected = vectors[59 - row] / np.linalg.norm(vectors[59 - row])
            np.testing.assert_allclose(back.vectors_of([row * 5])[0], expected, rtol=1e-5)
            assert back.keys_of([row * 5]) == [b"%d" % (59 - row)]
    back.add(clusters(2, 8, 3), np.array([1, 2]), ["a", "b"])
    assert len(back) == 59


def test_info_counts_removed_rows_that_a_purge_leaves_in_a_graph_index() -> None:
    index = index_of(kind="hnsw")
    index.remove([0, 3])
    assert (index.purge(), index.info()["removed"]) == (0, 2)
