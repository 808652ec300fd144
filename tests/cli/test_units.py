"""Tests of the command ``featstore units``."""

from __future__ import annotations

import pytest

from featstore.store import FeatureStore
from tests.cli.running import loaded_by, run, run_json
from tests.page_reading import read

pytestmark = pytest.mark.slow


def test_units_command_prints_a_table_and_writes_page_and_json(indexed, tmp_path):
    store = FeatureStore.open(indexed / "s")
    varied = int(store.features().std(axis=0).argmax())
    asked = ("units", indexed / "s", "--unit", str(varied), "--n", "3", "--least")
    text = run(*asked, "--html", tmp_path / "page.html").stdout
    found = run_json(*asked)
    one = found["units"][0]
    assert f"s: 11 pictures, {store.dimension:,} units of " in text
    assert f"unit {varied}: {one['lowest']:.4g} to {one['highest']:.4g}, mean {one['mean']:.4g}\n" in text
    for end in ("most", "least"):
        lines = [line.split() for line in text.split("\n")]
        start = lines.index(["value", "percentile", "label", end])
        told = [[f"{each['value']:.4g}", f"{each['percentile']:.2f}", each["label"], each["key"]] for each in one[end]]
        assert lines[start + 1 : start + 4] == told
    assert len(read(tmp_path / "page.html").pictures) == 6
    assert found["page"] is None


def test_units_command_loads_no_large_library_and_refuses_in_one_line(indexed):
    assert loaded_by(("units", "s", "--unit", "1", "--where", "label == 'ant'"), cwd=indexed) == "loaded: []"
    assert "has no unit 1000000; its units are 0 to " in run("units", indexed / "s", "--unit", "1000000", code=2).stderr
    error = run("units", indexed / "s", "--head", indexed / "s.head", "--class", "ant", code=2).stderr
    assert "there is no such head" in error
    assert error.count("\n") == 1
