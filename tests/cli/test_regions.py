"""Command-line options for regions of pictures (boxes), in every command from extract to search."""

from __future__ import annotations

import json

import pytest

from tests.cli.running import SMALL, run, run_json
from tests.made import write_pictures


@pytest.mark.slow
def test_extract_train_predict_index_and_search_work_with_boxes(tmp_path):
    write_pictures(tmp_path, [f"{number}.png" for number in range(8)])
    lines = [f"{number}.png,{at},{at},{8 + at},9,{'ab'[number % 2]}" for number in range(8) for at in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["path,x,y,w,h,label", *lines, "0.png,90,1,2,2,a"]))
    said = run("extract", "t.csv", "s", "--boxes", "x, y, w, h", *SMALL, cwd=tmp_path).stdout
    assert "boxes in pixels (--box-unit changes it), named by their values" in said
    assert "note: 1 box is outside its picture: a failure (the first: '0.png#90,1,2,2')" in said
    report = run_json("train", "s", "--apart", "--C", "1", "--out", "h", cwd=tmp_path)
    assert report["split"]["kind"] == "made"
    result = run("predict", "h", "s", "--by", "parent", "--pool", "max", "--json", cwd=tmp_path)
    assert [image["key"] for image in json.loads(result.stdout)["images"]] == [f"{number}.png" for number in range(8)]
    assert "add --by parent" in run("predict", "h", "s", "--pool", "max", cwd=tmp_path, code=2).stderr
    run("index", "s", "--out", "i", cwd=tmp_path)
    found = run_json("search", "i", "--key", "3.png#1,1,9,9", "--by", "parent", "--k", "20", cwd=tmp_path)
    keys = [neighbour["key"].partition("#")[0] for neighbour in found["queries"][0]["neighbours"]]
    assert sorted(keys) == [f"{number}.png" for number in range(8) if number != 3]
    assert run_json("duplicates", "s", "--within", cwd=tmp_path)["images"] == 24
    result = run("extract", "t.csv", "s", cwd=tmp_path, code=2)
    assert "has boxes of" in result.stderr
