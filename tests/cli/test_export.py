"""Tests of the command ``featstore export``."""

from __future__ import annotations

import pytest
from pyarrow import parquet

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_second_export_of_a_store_writes_nothing(place, tmp_path):
    out = tmp_path / "p"
    told = run("export", place / "s", "--out", out).stdout
    assert told.startswith(f"{out}: 4 rows x 1,280 in 1 file (")
    assert "columns key, id, label, split, sha256, vector" in told
    again = run_json("export", place / "s", "--out", out)
    assert (again["rows"], again["kept"], again["format"]) == (4, 4, "parquet")
    assert parquet.read_table(out)["label"].to_pylist() == ["ant", "bee", "ant", "bee"]


@pytest.mark.slow
def test_export_reports_usage_errors_in_one_line(place, tmp_path):
    assert "choose one of parquet, npy, csv" in run("export", place / "s", "--onnx", code=2).stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x").write_text("mine")
    error = run("export", place / "s", "--out", tmp_path / "mine", code=2).stderr
    assert "name a new folder" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_head_is_exported_to_onnx_with_or_without_its_backbone(indexed, tmp_path):
    run("train", indexed / "s", "--out", tmp_path / "h", "--C", "1")
    told = run("export", tmp_path / "h", "--onnx").stdout
    assert told.startswith(f"{tmp_path / 'h'}.onnx: logreg, 2 classes (")
    assert "takes: pixels (height, width, 3) uint8" in told
    assert run_json("export", tmp_path / "h", "--sklearn")["out"] == f"{tmp_path / 'h'}.joblib"
    alone = run_json("export", tmp_path / "h", "--onnx", "--features-only", "--out", tmp_path / "f.onnx")
    assert alone["inputs"].startswith("features (n, 512) float32")
