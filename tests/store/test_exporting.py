from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from featstore.errors import UsageError
from featstore.store import FeatureStore
from featstore.store.exporting import DESCRIPTION, FORMATS, export_store
from tests.store.building import Pictures, build, identity, plan, work
from tests.store.test_arrow import source

KILLED = """
import os, signal, sys
from pathlib import Path

from featstore.store import FeatureStore
from featstore.store.exporting import export_store

store, out, form, rows = sys.argv[1:]


def kill(done: int, _: int) -> None:
    if done == int(rows):
        os.kill(os.getpid(), signal.SIGKILL)


export_store(FeatureStore.open(store), Path(out), form, kill)
"""


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def store(tmp_path):
    return build(tmp_path / "s", source(), identity=identity(dtype="float16"))


def test_parquet_export_has_one_file_per_unit_and_the_rows_of_to_arrow(store, tmp_path):
    made = export_store(store, tmp_path / "out", "parquet")
    assert made.files == [f"part-000000-{number:08d}.parquet" for number in range(3)]
    assert [parquet.read_metadata(tmp_path / "out" / name).num_rows for name in made.files] == [5, 5, 2]
    table = pa.concat_tables([parquet.read_table(tmp_path / "out" / name) for name in made.files])
    expected = store.to_arrow()
    assert table.column_names == expected.column_names == made.columns
    assert table.drop_columns(["vector"]).to_pylist() == expected.drop_columns(["vector"]).to_pylist()
    assert table["vector"].combine_chunks().flatten().to_numpy().tobytes() == store.features().tobytes()
    told = parquet.read_schema(tmp_path / "out" / made.files[0]).metadata
    assert json.loads(told[b"featstore"])["identity"] == store.identity.to_dict()


def test_npy_export_has_vectors_and_rows_in_the_same_order(store, tmp_path):
    export_store(store, tmp_path / "out", "npy")
    vectors = np.load(tmp_path / "out/vectors.npy", mmap_mode="r")
    assert (vectors.dtype, vectors.tobytes()) == (np.float16, store.features().tobytes())
    assert parquet.read_table(tmp_path / "out/rows.parquet")["key"].to_pylist() == list(store.keys)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_csv_export_has_the_values_of_the_store(tmp_path, dtype):
    pictures = source()
    pictures.labels[b"02.jpg"] = 'a "quoted", two-lined\nlabel'
    store = build(tmp_path / "s", pictures, identity=identity(dtype=dtype))
    export_store(store, tmp_path / "out", "csv")
    with open(tmp_path / "out/rows.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == list(store.keys)
    assert [row["label"] or None for row in rows] == store.labels.tolist()
    assert [row["sha256"] for row in rows] == [digest.tobytes().hex() for digest in store.sha256]
    vectors = np.array([[row[f"vector_{at}"] for at in range(4)] for row in rows]).astype(np.float32).astype(dtype)
    assert vectors.tobytes() == store.features().tobytes()


def test_export_keeps_the_bytes_of_non_utf8_names_and_labels(tmp_path):
    path = tmp_path / "s"
    pictures = Pictures({b"K\xe4fer/a.png": 1, b"b.png": 2}, labels={b"K\xe4fer/a.png": "K\udce4fer", b"b.png": "b"})
    pictures.metadata = {"note": {b"K\xe4fer/a.png": "\udce4"}}
    store = build(path, pictures)
    export_store(store, tmp_path / "out", "csv")
    lines = (tmp_path / "out/rows.csv").read_bytes().replace(b'"', b"").splitlines()
    assert [line.split(b",")[0] for line in lines[1:]] == [b"K\xe4fer/a.png", b"b.png"]
    assert [line.split(b",")[2] for line in lines[1:]] == [b"K\xe4fer", b"b"]
    assert [line.split(b",")[4] for line in lines[1:]] == [b"\xe4", b""]


@pytest.mark.parametrize("form", FORMATS)
def test_resumed_export_equals_an_uninterrupted_export(store, tmp_path, form):
    whole = tmp_path / "whole"
    export_store(store, whole, form)
    for rows in (5, 12):
        # Start a new interpreter instead of a fork, because Arrow's threads do not survive a fork.
        ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "s", tmp_path / "out", form, str(rows)])
        assert ended.returncode == -signal.SIGKILL
        assert json.loads((tmp_path / "out" / DESCRIPTION).read_text())["complete"] is False
    assert export_store(store, tmp_path / "out", form).kept == 12
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.parametrize("form", FORMATS)
def test_repeating_a_finished_export_rewrites_no_file(store, tmp_path, form):
    first = export_store(store, tmp_path / "out", form)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir() if path.name != DESCRIPTION}
    again = export_store(store, tmp_path / "out", form)
    assert (first.kept, again.kept, again.files) == (0, 12, first.files)
    assert before == {
        path.name: path.stat().st_ino for path in (tmp_path / "out").iterdir() if path.name != DESCRIPTION
    }


@pytest.mark.parametrize("form", FORMATS)
def test_export_of_a_changed_store_rewrites_the_changed_files(store, tmp_path, form):
    export_store(store, tmp_path / "out", form)
    pictures = source(14)
    del pictures.content[b"01.jpg"]
    plan(store.path, pictures, identity=store.identity)
    work(store.path, pictures)
    grown = FeatureStore.open(store.path)
    made = export_store(grown, tmp_path / "out", form)
    assert (made.rows, made.kept) == (13, 7 if form == "parquet" else 0)
    export_store(grown, tmp_path / "fresh", form)
    names = {path.name for path in (tmp_path / "fresh").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    if form == "npy":
        assert np.load(tmp_path / "out/vectors.npy").tobytes() == grown.features().tobytes()


def test_damaged_and_missing_export_files_are_written_again(store, tmp_path):
    made = export_store(store, tmp_path / "out", "parquet")
    expected = contents(tmp_path / "out")
    (tmp_path / "out" / made.files[0]).write_bytes(b"PAR1")
    (tmp_path / "out" / made.files[1]).unlink()
    assert export_store(store, tmp_path / "out", "parquet").kept == 2
    assert contents(tmp_path / "out") == expected


def test_export_of_a_store_refuses_other_folders_and_unknown_formats(store, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/note.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no export of featstore"):
        export_store(store, tmp_path / "mine", "parquet")
    export_store(store, tmp_path / "out", "npy")
    with pytest.raises(UsageError, match="another format"):
        export_store(store, tmp_path / "out", "csv")
    with pytest.raises(UsageError, match="choose one of parquet, npy, csv"):
        export_store(store, tmp_path / "x", "hdf5")
    with pytest.raises(UsageError, match="make it first"):
        export_store(store, tmp_path / "no/such", "csv")


def test_export_does_not_follow_links_at_its_output_paths(store, tmp_path):
    (tmp_path / "victim").write_text("mine")
    export_store(store, tmp_path / "out", "npy")
    (tmp_path / "out/vectors.npy").unlink()
    (tmp_path / "out/.vectors.npy.partial").symlink_to(tmp_path / "victim")
    export_store(store, tmp_path / "out", "npy")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "out/vectors.npy").is_symlink()


def test_export_replaces_a_pipe_at_the_path_of_a_part(store, tmp_path):
    made = export_store(store, tmp_path / "out", "parquet")
    part = tmp_path / "out" / made.files[1]
    expected = part.read_bytes()
    part.unlink()
    os.mkfifo(part)
    assert export_store(store, tmp_path / "out", "parquet").kept == 7
    assert part.read_bytes() == expected


def test_export_of_a_store_without_vectors_gives_empty_files(tmp_path):
    plan(tmp_path / "s", source())
    store = FeatureStore.open(tmp_path / "s")
    export_store(store, tmp_path / "npy", "npy")
    assert np.load(tmp_path / "npy/vectors.npy").shape == (0, 4)
    assert export_store(store, tmp_path / "parquet", "parquet").files == []
    export_store(store, tmp_path / "csv", "csv")
    assert (tmp_path / "csv/rows.csv").read_text().count("\n") == 1


def test_duckdb_and_polars_read_the_exported_parquet_files(store, tmp_path):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    export_store(store, tmp_path / "out", "parquet")
    everything = f"{tmp_path}/out/*.parquet"
    assert duckdb.sql(f"select count(*) from '{everything}' where label = 'odd'").fetchall() == [(6,)]
    vectors = duckdb.sql(f"select vector from '{everything}' order by id").fetchall()
    assert np.array([row[0] for row in vectors]).astype(np.float16).tobytes() == store.features().tobytes()
    found = polars.read_parquet(everything).sort("id")["vector"].explode().to_numpy()
    assert np.asarray(found, np.float16).tobytes() == store.features().tobytes()
