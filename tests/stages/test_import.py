"""featstore.import_vectors: vectors made by other programs become a store, without pictures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featstore
from featstore.errors import IdentityError, UsageError
from featstore.files import atomic
from featstore.stages.duplicates import find_duplicates
from featstore.stages.export import export
from featstore.stages.extract import extract
from featstore.stages.import_ import import_vectors
from featstore.stages.info import info
from featstore.stages.label import label
from featstore.stages.predict import predict
from featstore.stages.queries import Query
from featstore.stages.remove import remove
from featstore.stages.repair import repair
from featstore.stages.search import search
from featstore.stages.train import train
from featstore.stages.verify import verify
from featstore.store import FeatureStore, shards
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone

N, D = 60, 6


def write(folder, count: int = N, seed: int = 0) -> np.ndarray:
    """Write v.npy and rows.csv with two well separated classes; the last vector is a copy of the first."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, D)).astype(np.float32)
    vectors[::2, 0] += 6
    vectors[-1] = vectors[0]
    np.save(folder / "v.npy", vectors)
    lines = [
        f"{at:03d}.jpg,{'cat' if at % 2 == 0 else 'dog'},{'val' if at % 5 == 0 else 'train'},{at}"
        for at in range(count)
    ]
    (folder / "rows.csv").write_text("\n".join(["path,label,split,number", *lines]) + "\n")
    return vectors


@pytest.fixture
def made(tmp_path):
    vectors = write(tmp_path)
    report = import_vectors(
        tmp_path / "v.npy", tmp_path / "s", identity="their-net", keys=tmp_path / "rows.csv", unit_rows=16
    )
    assert (report.vectors, report.written, report.pending, report.change.added) == (N, N, 0, N)
    return tmp_path, vectors


def test_imported_store_has_vectors_keys_labels_and_metadata(made):
    folder, vectors = made
    store = FeatureStore.open(folder / "s")
    assert store.features().tobytes() == vectors.tobytes()
    assert (store.keys[3], store.labels[3], store.splits[3], store.column("number")[3]) == (
        "003.jpg",
        "dog",
        "train",
        3,
    )
    assert (store.identity.backbone, store.identity.is_imported, len(store.units)) == ("their-net", True, 4)
    assert not store.sha256.any()
    assert verify(folder / "s").problems == []
    assert info(folder / "s")["made_by"][0]["engine"] == "import"


def test_imported_vectors_can_be_classified_and_searched(made):
    folder, vectors = made
    trained = train(folder / "s", out=folder / "h", C=1.0)
    assert trained.report.accuracy.value > 0.9
    assert {one.label for one in predict(folder / "h", [folder / "s"])} == {"cat", "dog"}
    built = featstore.index(folder / "s", out=folder / "i")
    (by_key,) = search(built.path, like=Query(keys=["000.jpg"]), k=1).queries
    assert by_key.neighbours[0].key == "059.jpg"
    (by_vector,) = search(built.path, like=Query(vectors=[vectors[7]]), k=1).queries
    assert by_vector.neighbours[0].key == "007.jpg"
    (group,) = find_duplicates(folder / "s", threshold=0.999).groups
    # featstore does not know the bytes of imported pictures, so equal vectors count as near-duplicates.
    assert ([copy.key for copy in group.copies], group.equal) == (["000.jpg", "059.jpg"], False)
    table = folder / "t.csv"
    table.write_text("path,label\n000.jpg,lion\n")
    assert label(folder / "s", table).matched == 1
    with pytest.raises(UsageError, match="was imported without its picture"):
        FeatureStore.open(folder / "s").path_of("000.jpg")


def test_imported_store_refuses_operations_that_need_pictures(made):
    folder, _ = made
    write_coloured(folder / "pictures", names("", 2))
    train(folder / "s", out=folder / "h", C=1.0)
    built = featstore.index(folder / "s", out=folder / "i")
    picture = folder / "pictures/ant/00.png"
    for refused in (
        lambda: search(built.path, [picture]),
        lambda: list(predict(folder / "h", [picture])),
        lambda: extract(folder / "pictures", folder / "s"),
        lambda: extract(folder / "pictures", folder / "s", backbone="resnet18"),
    ):
        with pytest.raises(
            UsageError, match="imported as 'their-net', and featstore cannot make such features"
        ) as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert FeatureStore.open(folder / "s").counts.images == N


def test_second_import_writes_only_changed_vectors(made):
    folder, vectors = made
    again = import_vectors(folder / "v.npy", folder / "s", identity="their-net", keys=folder / "rows.csv")
    assert (again.change.unchanged, again.written) == (N, 0)
    more = np.concatenate([vectors[1:], np.ones((2, D), np.float32)])
    more[4] += 1
    np.save(folder / "v.npy", more)
    lines = (folder / "rows.csv").read_text().splitlines()
    (folder / "rows.csv").write_text("\n".join([lines[0], *lines[2:], "x.jpg,cat,train,1", "y.jpg,dog,train,2"]))
    changed = import_vectors(folder / "v.npy", folder / "s", identity="their-net", keys=folder / "rows.csv")
    assert (changed.change.added, changed.change.changed, changed.change.removed, changed.written) == (2, 1, 1, 3)
    store = FeatureStore.open(folder / "s")
    assert len(store) == N + 1
    assert store.features(rows=store.index_of(["005.jpg", "x.jpg"])).tobytes() == more[[4, N - 1]].tobytes()


def test_import_refuses_a_store_of_another_identity_or_dimension(made):
    folder, vectors = made
    with pytest.raises(IdentityError, match="another identity: backbone their-net, not other-net"):
        import_vectors(folder / "v.npy", folder / "s", identity="other-net", keys=folder / "rows.csv")
    np.save(folder / "v.npy", vectors[:, :4])
    with pytest.raises(IdentityError, match="dimension 6, not 4"):
        import_vectors(folder / "v.npy", folder / "s", identity="their-net", keys=folder / "rows.csv")


@pytest.mark.parametrize("name", [None, "", "two\nlines", "x" * 201])
def test_import_without_a_valid_identity_name_is_refused(tmp_path, name):
    write(tmp_path)
    with pytest.raises(UsageError, match="--identity"):
        import_vectors(tmp_path / "v.npy", tmp_path / "s", identity=name)
    assert not (tmp_path / "s").exists()


def test_import_refuses_nan_values_and_duplicate_keys_before_writing(tmp_path):
    vectors = write(tmp_path)
    (tmp_path / "k.txt").write_text("\n".join(["a", "b", "a", *(str(at) for at in range(N - 3))]))
    with pytest.raises(UsageError, match=r"the key 'a' is there more than once \(rows 1 and 3\)"):
        import_vectors(tmp_path / "v.npy", tmp_path / "s", identity="n", keys=tmp_path / "k.txt")
    vectors[-1, 2] = np.inf
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(UsageError, match="row 60 has NaN, infinity"):
        import_vectors(tmp_path / "v.npy", tmp_path / "s", identity="n")
    assert not (tmp_path / "s").exists()


def test_repair_cannot_recompute_a_damaged_imported_vector(made):
    folder, _ = made
    path = shards.shard_path(folder / "s", 0)
    with open(path, "r+b") as file:
        place = path.read_bytes().index(np.load(folder / "v.npy")[3].tobytes())
        file.seek(place)
        file.write(b"\xff\xff")
    with pytest.raises(UsageError, match="cannot make such features"):
        repair(folder / "s")
    assert repair(folder / "s", set_aside=True).failed == 1


@pytest.mark.parametrize("to", ["parquet", "npy"])
def test_import_of_an_export_restores_identity_keys_labels_and_vectors(tmp_path, to):
    store = make_store(write_coloured(tmp_path / "p", names("train", 6)), tmp_path / "s", unit_rows=5)
    export(store, to=to, out=tmp_path / "out")
    import_vectors(tmp_path / "out", tmp_path / "copy")
    first, copy = FeatureStore.open(store), FeatureStore.open(tmp_path / "copy")
    assert copy.identity == first.identity
    assert (list(copy.keys), copy.labels.tolist()) == (list(first.keys), first.labels.tolist())
    assert (copy.features().tobytes(), copy.sha256.tobytes()) == (first.features().tobytes(), first.sha256.tobytes())
    assert copy.columns == ["label", "split"]


def test_import_of_an_export_restores_regions_but_not_removed_pictures(tmp_path):
    write_coloured(tmp_path / "p", names("train", 2))
    extract(tmp_path / "p", tmp_path / "s", backbone=tiny_backbone(), tiles=20, supervised=False)
    export(tmp_path / "s")
    report = import_vectors(tmp_path / "s.parquet", tmp_path / "t")
    old, new = FeatureStore.open(tmp_path / "s"), FeatureStore.open(tmp_path / "t")
    assert new.to_pandas().drop(columns="id").equals(old.to_pandas().drop(columns="id"))
    assert new.by_parent()[0] == old.by_parent()[0] == sorted(set(old.parents))
    first, n = old.parents[0], len(old) // 4
    remove(tmp_path / "t", [first])
    report = import_vectors(tmp_path / "s.parquet", tmp_path / "t")
    assert (report.change.denied, report.vectors) == (n, 3 * n)
    assert f"{n} left out (removed by featstore remove)" in report.text()
    extract(tmp_path / "p", tmp_path / "u", backbone=tiny_backbone(), supervised=False)
    export(tmp_path / "u")
    remove(tmp_path / "u", [first])
    table = pq.read_table(next((tmp_path / "u.parquet").glob("*.parquet")))
    renamed = pa.array([f"other/{key}" for key in table["key"].to_pylist()])
    pq.write_table(table.set_column(0, "key", renamed), tmp_path / "renamed.parquet")
    report = import_vectors(tmp_path / "renamed.parquet", tmp_path / "u")
    assert (report.change.added, report.vectors) == (4, 3 + 3)
    assert [failure.reason for _, failure in FeatureStore.open(tmp_path / "u").failures()] == ["removed"]


def test_import_refuses_an_unfinished_export(tmp_path):
    store = make_store(write_coloured(tmp_path / "p", names("train", 2)), tmp_path / "s")
    export(store, to="npy", out=tmp_path / "out")
    found = atomic.read_json(tmp_path / "out/_featstore.json")
    atomic.write_json(tmp_path / "out/_featstore.json", {**found, "complete": False})
    with pytest.raises(UsageError, match="unfinished export"):
        import_vectors(tmp_path / "out", tmp_path / "copy")


@pytest.mark.slow
def test_next_import_resumes_a_killed_import(tmp_path):
    vectors = write(tmp_path)
    code = """
import os, signal
from featstore.store import shards
from featstore.stages.import_ import import_vectors
real, count = shards.write_shard, [0]
def write(*arguments, **options):
    count[0] += 1
    if count[0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments, **options)
shards.write_shard = write
import_vectors("v.npy", "s", identity="n", keys="rows.csv", unit_rows=16)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    assert FeatureStore.open(tmp_path / "s").counts.pending == N - 32
    report = import_vectors(tmp_path / "v.npy", tmp_path / "s", identity="n", keys=tmp_path / "rows.csv")
    assert (report.written, report.pending) == (N - 32, 0)
    assert FeatureStore.open(tmp_path / "s").features().tobytes() == vectors.tobytes()
