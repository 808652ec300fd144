"""Tests of the command ``featstore info``."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json
from tests.made import picture
from tests.tuned import NETWORK, write_tuned


@pytest.mark.slow
def test_info_describes_store_head_index_and_folder(place):
    found = run_json("info", place / "s")
    assert (found["vectors"], found["labels"], found["splits"]) == (4, {"ant": 2, "bee": 2}, {"train": 2, "val": 2})
    text = run("info", place / "s").stdout
    assert "5 images = 4 vectors + 1 failure + 0 pending" in text
    assert "1280-d float32 of efficientnet_lite0" in text


@pytest.mark.slow
def test_info_describes_a_model_that_predict_and_export_accept(tmp_path):
    write_tuned(tmp_path / "m", classes=("ant", "bee", "cow"))
    picture(7).save(tmp_path / "a.png")
    lines = run("info", "m", cwd=tmp_path).stdout.splitlines()
    assert lines[0].startswith(f"m: {NETWORK} (input of fc), fine-tuned, with a logreg head")
    assert lines[1] == "classes: ant, bee, cow"
    assert lines[-1] == "training: epochs 1"
    assert run_json("info", "m", cwd=tmp_path)["kind"] == "model"
    (found,) = run_json("predict", "m", "a.png", cwd=tmp_path)["images"]
    assert found["label"] in ("ant", "bee", "cow")
    assert "takes: features (n, 1,024)" in run("export", "m", "--features-only", cwd=tmp_path).stdout
    assert (
        "is a model, which holds"
        in run(*["extract", ".", "s", "--backbone", "m", "--weights", "random:0"], cwd=tmp_path, code=2).stderr
    )
