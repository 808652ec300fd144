"""Tests of the command ``featstore label``."""

from __future__ import annotations

import subprocess

import pytest

from featstore.store import FeatureStore
from tests.cli.running import run, run_json


@pytest.mark.slow
def test_labels_from_a_table_are_unchanged_after_compaction(place, tmp_path):
    subprocess.run(["cp", "-r", place / "s", tmp_path / "s"], check=True)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "shards").iterdir()}
    (tmp_path / "t.csv").write_text("key,label,weight\ntrain/ant/1.jpg,queen,2\nval/bee/4.jpg,,3\nnobody,x,1\n")
    report = run_json("label", tmp_path / "s", tmp_path / "t.csv", code=1)
    assert (report["matched"], report["unknown"], report["columns"]) == (2, 1, ["weight", "label"])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s" / "shards").iterdir()} == shards
    store = FeatureStore.open(tmp_path / "s")
    assert store.labels.tolist() == ["queen", "bee", "ant", None]
    assert store.column("weight").tolist() == [2, None, None, 3]
    assert run_json("compact", tmp_path / "s")["shards_rewritten"] == 0
    assert FeatureStore.open(tmp_path / "s").labels.tolist() == ["queen", "bee", "ant", None]


@pytest.mark.slow
def test_label_lists_its_history_and_undoes_the_last_change(place, tmp_path):
    subprocess.run(["cp", "-r", place / "s", tmp_path / "s"], check=True)
    (tmp_path / "t.csv").write_text("key,label\ntrain/ant/1.jpg,queen\n")
    run("label", tmp_path / "s", tmp_path / "t.csv")
    undone = run_json("label", tmp_path / "s", "--undo")
    assert (undone["version"], undone["reverts"], undone["changed"]) == (3, 2, 1)
    assert FeatureStore.open(tmp_path / "s").labels.tolist()[0] == "ant"
    lines = run("label", tmp_path / "s", "--history").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert lines[1].endswith("user: label of 1 picture, 1 changed (undone by version 3)")
    assert [each["origin"] for each in run_json("label", tmp_path / "s", "--history")["versions"]] == [
        "source",
        "user",
        "undo",
    ]
    assert "no labelling is left to undo" in run("label", tmp_path / "s", "--undo", code=2).stderr
    assert "one of --history and --undo" in run("label", tmp_path / "s", code=2).stderr
    assert "is of a TABLE" in run("label", tmp_path / "s", "--undo", "--key-column", "key", code=2).stderr
