"""The commands ``verify`` and ``repair``: exit codes and output for stores, heads and indexes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import run, run_json
from tests.faults.building import copy_of
from tests.faults.test_repair import overwrite, shard

pytestmark = pytest.mark.slow


def test_verify_reports_damage_that_repair_restores(master: Path, tmp_path: Path) -> None:
    store = copy_of(master / "store", tmp_path / "store")
    overwrite(shard(store), "features", 33)
    found = run("verify", store, code=1).stdout
    assert "touches 1 image ('cat/01.png')" in found
    assert f"featstore repair {store}" in found
    report = run_json("repair", store, "--set-aside")
    assert (report["failed"], report["remade"], len(report["aside"])) == (1, 0, 1)
    assert "whole" in run("verify", store).stdout
    assert "nothing is damaged" in run("repair", store).stdout
    reasons = run_json("failures", store)["reasons"]
    assert reasons == {"damaged": 1, "not-a-picture": 1}


def test_verify_finds_damage_in_heads_and_indexes(master: Path, tmp_path: Path) -> None:
    for name in ("a.head", "an.index", "an.index.featstore"):
        assert "whole" in run("verify", master / name).stdout
    (tmp_path / "a.head").write_bytes((master / "a.head").read_bytes()[:-1] + b"\x5a")
    assert "does not match" in run("verify", tmp_path / "a.head", code=1).stdout
    (tmp_path / "an.index").write_bytes((master / "an.index").read_bytes() + b"\0")
    (tmp_path / "an.index.featstore").write_bytes((master / "an.index.featstore").read_bytes())
    assert len(run_json("verify", tmp_path / "an.index", code=1)["problems"]) == 1
    run("verify", tmp_path / "nothing", code=2)
    run("repair", tmp_path / "nothing", code=2)
    run("extract", tmp_path, tmp_path / "s", "--max-memory", "lots", code=2)
