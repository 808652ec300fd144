"""featstore label."""

from __future__ import annotations

import subprocess

import pytest

from featstore.store import FeatureStore
from tests.cli.running import run_json


@pytest.mark.slow
def test_labels_stay_after_compaction(place, tmp_path):
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
