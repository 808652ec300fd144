from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.indexes import build_index, read_ann_benchmark, write_ann_benchmark
from tests.indexes.made import Source, best_scores, brute_force, clusters

ROWS, QUERIES = 400, np.array([7, 3, 399, 50])


@pytest.mark.parametrize(("metric", "name"), [("cosine", "angular"), ("l2", "euclidean")])
def test_ann_benchmark_file_keeps_vectors_and_true_neighbours(metric: str, name: str, tmp_path: Path) -> None:
    vectors = clusters(ROWS)
    vectors[8] = vectors[7]
    withheld = np.zeros(ROWS, np.bool_)
    withheld[[7, 8]] = True
    write_ann_benchmark(tmp_path / "x.hdf5", Source(vectors), QUERIES, metric=metric, k=12, withheld=withheld)
    train = np.delete(vectors, [7, 8, 3, 399, 50], axis=0)
    best = best_scores(brute_force(train, vectors[QUERIES], metric), 12, metric)
    distances = np.sqrt(best) if metric == "l2" else 1 - best
    with h5py.File(tmp_path / "x.hdf5") as file:
        assert dict(file.attrs) == {"type": "dense", "distance": name, "dimension": 16, "point_type": "float"}
        np.testing.assert_array_equal(file["train"], train)
        np.testing.assert_array_equal(file["test"], vectors[QUERIES])
        np.testing.assert_allclose(file["distances"], distances, atol=1e-5)
        assert file["neighbors"].dtype == np.int32
    read = read_ann_benchmark(tmp_path / "x.hdf5")
    assert (read.metric, read.train.shape) == (metric, train.shape)
    index = build_index(read.train, np.arange(len(train)), [b"k"] * len(train), metric=read.metric)
    _, found = index.search(read.test, 12)
    assert read.recall(found, 10).value == 1
    found[0, :10] = -1
    assert read.recall(found, 10).value == pytest.approx(0.75)
    with pytest.raises(UsageError, match="recall@13 is not known"):
        read.recall(found, 13)


def test_recall_counts_rows_at_the_distance_of_the_last_true_neighbour_as_found(tmp_path: Path) -> None:
    vectors = np.ones((30, 4), np.float32)
    write_ann_benchmark(tmp_path / "x", vectors, np.array([0]), k=20)
    read = read_ann_benchmark(tmp_path / "x")
    assert read.recall(read.neighbors[:, ::-1], 5).value == 1


def test_ann_benchmark_export_rejects_an_unknown_metric_and_missing_queries(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no metric 'ip'"):
        write_ann_benchmark(tmp_path / "x", clusters(9), np.array([1]), metric="ip")
    with pytest.raises(UsageError, match="needs queries"):
        write_ann_benchmark(tmp_path / "x", clusters(9), np.arange(9))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": None}, "no matrix 'train'"),
        ({"test": np.zeros(4)}, "no matrix 'test'"),
        ({"test": np.zeros((2, 5))}, "do not fit"),
        ({"neighbors": np.full((2, 3), 20)}, "names neighbors that are not among its 20 rows"),
        ({"neighbors": np.full((2, 3), -1)}, "names neighbors"),
        ({"distances": np.zeros((2, 2))}, "do not fit"),
        ({"train": h5py.ExternalLink("/etc/hosts", "/train")}, "no matrix 'train'"),
        ({"distance": "jaccard"}, "neither angular nor euclidean"),
    ],
)
def test_malformed_ann_benchmark_files_are_rejected(tmp_path: Path, change: dict[str, object], message: str) -> None:
    parts = {"train": np.zeros((20, 4)), "test": np.ones((2, 4)), "neighbors": np.zeros((2, 3), int)}
    parts = {**parts, "distances": np.zeros((2, 3)), "distance": "angular", **change}
    with h5py.File(tmp_path / "x", "w") as file:
        file.attrs["distance"] = parts.pop("distance")
        for name, part in parts.items():
            if part is not None:
                file[name] = part
    with pytest.raises(UsageError, match=message):
        read_ann_benchmark(tmp_path / "x")


def test_damaged_and_missing_ann_benchmark_files_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UsageError, match="no file of ann-benchmarks"):
        read_ann_benchmark(tmp_path / "x")
    with pytest.raises(UsageError, match="no such file"):
        read_ann_benchmark(tmp_path / "none")
