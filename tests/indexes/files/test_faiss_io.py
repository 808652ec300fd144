from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import faiss
import numpy as np
import pytest

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.indexes.files import faiss_io
from tests.indexes.made import best_scores, brute_force, clusters

FACTORIES = [
    "Flat",
    "HNSW16",
    "HNSW16_SQfp16",
    "HNSW16_SQ8,RFlat",
    "IVF4,PQ8x4fs,Refine(SQfp16)",
    "PCAR8,IVF4,PQ8x4fsr,Refine(SQ8)",
]


def made(factory: str, vectors: np.ndarray, inner_product: bool = True) -> faiss_io.VectorIndex:
    index = faiss_io.VectorIndex.create(factory, vectors.shape[1], inner_product, seed=0, construction=40)
    index.train(vectors)
    index.add(vectors, np.arange(len(vectors)) * 2 + 1)
    return index


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("inner_product", [True, False])
def test_search_with_the_largest_parameters_equals_brute_force(factory: str, inner_product: bool) -> None:
    vectors, queries = clusters(500), clusters(4, seed=1)
    index = made(factory, vectors, inner_product)
    index.effort = {"efSearch": 500, "nprobe": 4, "k_factor": 60}
    allowed = np.random.default_rng(0).random(500) < 0.3
    metric = "ip" if inner_product else "l2"
    for mask in (None, allowed):
        scores, found = index.search(queries, 5, allowed=mask)
        expected = best_scores(brute_force(vectors, queries, metric, mask), 5, metric)
        np.testing.assert_allclose(scores, expected, rtol=2e-2, atol=2e-2)
        assert mask is None or mask[found].all()


@pytest.mark.parametrize("residual", ["", "r"])
@pytest.mark.parametrize("inner_product", [True, False])
def test_ivf_lists_scanned_query_by_query_give_the_same_neighbours(residual: str, inner_product: bool) -> None:
    vectors, queries = clusters(2000), clusters(50, seed=1)
    index = made(f"IVF16,PQ8x4fs{residual},Refine(SQfp16)", vectors, inner_product)
    index.effort = {"nprobe": 5, "k_factor": 4}
    scores, found = index.search(queries, 10)
    for part in index._parts():
        if isinstance(part, faiss.IndexIVFFastScan):
            assert part.implem == faiss_io._QUERY_BY_QUERY
            part.implem = 0
    others, same = index.search(queries, 10)
    # Candidates with equal 4-bit scores are tied, so a few neighbours may differ.
    assert (found == same).mean() > 0.98
    np.testing.assert_allclose(scores[found == same], others[found == same], rtol=1e-5)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("mmap", [False, True])
def test_faiss_file_keeps_vectors_ids_and_search_parameters(factory: str, mmap: bool, tmp_path: Path) -> None:
    vectors = clusters(500)
    index = made(factory, vectors)
    index.effort = {"efSearch": 77, "nprobe": 3, "k_factor": 5}
    index.write(tmp_path / "x")
    back = faiss_io.VectorIndex.read(tmp_path / "x", 500, 16, mmap=mmap)
    assert back.effort == index.effort
    assert set(back.effort.values()) <= {77, 3, 5}
    np.testing.assert_array_equal(back.ids, np.arange(500) * 2 + 1)
    np.testing.assert_array_equal(back.search(vectors[:9], 3)[1], index.search(vectors[:9], 3)[1])
    np.testing.assert_allclose(back.reconstruct(np.array([7, 400])), vectors[[7, 400]], atol=0.05)
    if mmap:
        with pytest.raises(FeatstoreError, match="mmap=False"):
            back.add(vectors, np.arange(500))
    else:
        back.add(vectors, np.arange(500) + 5000)
        assert len(back) == 1000


def test_files_whose_names_are_not_utf8_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"na\xffme\n")
    made("Flat", clusters(20)).write(path)
    assert len(faiss_io.VectorIndex.read(path, 20, 16, mmap=True)) == 20


def test_faiss_file_with_unexpected_shape_type_or_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    made("Flat", clusters(20)).write(path)
    whole = path.read_bytes()
    for rows, dimension in ((21, 16), (20, 17)):
        with pytest.raises(DamagedError, match="is not the index of"):
            faiss_io.VectorIndex.read(path, rows, dimension, mmap=False)
    faiss.write_index(faiss.index_factory(16, "IDMap2,Flat"), str(path))
    with pytest.raises(DamagedError, match="IxM2"):
        faiss_io.VectorIndex.read(path, 0, 16, mmap=False)
    for size in (0, 40, 100, len(whole) - 9):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedError) as caught:
            faiss_io.VectorIndex.read(path, 20, 16, mmap=False)
        assert "\n" not in str(caught.value)


def test_faiss_exceptions_become_featstore_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot make 'Nonsense9'"):
        faiss_io.VectorIndex.create("Nonsense9", 16, True, seed=0, construction=40)
    with pytest.raises(FeatstoreError, match="could not write"):
        made("Flat", clusters(20)).write(tmp_path / "missing" / "x")


def test_faiss_calls_restore_the_thread_count() -> None:
    before = faiss.omp_get_max_threads()
    faiss_io.knn(clusters(2), clusters(9), 1, True, threads=before + 3)
    assert faiss.omp_get_max_threads() == before
    with pytest.raises(UsageError, match="0 neighbours"):
        made("Flat", clusters(9)).search(clusters(2), 0, threads=before + 3)
    made("Flat", clusters(9)).search(clusters(2), 1, threads=before + 3)
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,PQ4x4fs,Refine(SQfp16)"])
def test_query_batch_searched_in_parts_gives_the_same_neighbours(factory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries, allowed = made(factory, clusters(300)), clusters(50), np.arange(300) % 3 > 0
    whole = [index.search(queries, 5), index.search(queries, 5, allowed=allowed)]
    monkeypatch.setattr(faiss_io, "_AT_ONCE", 4)
    parts = [index.search(queries, 5, threads=2), index.search(queries, 5, allowed=allowed, threads=3)]
    for (scores, places), (other_scores, other_places) in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(places, other_places)
        np.testing.assert_allclose(scores, other_scores, rtol=1e-5)


def test_building_a_graph_in_one_thread_is_deterministic(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        index = faiss_io.VectorIndex.create("HNSW8", 16, True, seed=seed, construction=40)
        index.add(clusters(300), np.arange(300), threads=1)
        index.write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_index_search_works_in_a_forked_child() -> None:
    code = """
        import os, signal
        import numpy as np
        from featstore.indexes.files.faiss_io import knn
        x = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
        before = knn(x[:500], x, 3, True, threads=4)[1]
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if (knn(x[:500], x, 3, True, threads=4)[1] == before).all() else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.parametrize("inner_product", [True, False])
def test_pca_projection_does_not_change_the_order_of_inner_products(inner_product: bool) -> None:
    # Vectors far from the origin and of different lengths: subtracting their mean would change the order of the inner
    # products.
    vectors = clusters(600, 16) + 4 * np.linspace(0.5, 2, 600, dtype=np.float32)[:, None]
    index = made("PCAR16,Flat", vectors, inner_product)
    distances, positions = index.search(vectors[:20], 5)
    exact, wanted = faiss_io.knn(vectors[:20], vectors, 5, inner_product)
    assert (positions == wanted).mean() > 0.95
    np.testing.assert_allclose(distances, exact, rtol=1e-3, atol=1e-2)
