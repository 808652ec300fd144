"""Tests of the command ``featstore repair``."""

from __future__ import annotations

import shutil

import pytest

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_repair_corrects_a_flipped_bit_and_keeps_a_copy_of_the_damaged_file(place, tmp_path):
    store = shutil.copytree(place / "s", tmp_path / "s")
    assert run("repair", store).stdout == f"{store}: nothing is damaged\n"
    (shard,) = (store / "shards").iterdir()
    whole = bytearray(shard.read_bytes())
    damaged = whole.copy()
    damaged[len(damaged) // 2] ^= 4
    shard.write_bytes(damaged)
    report = run_json("repair", store)
    assert shard.read_bytes() == whole
    assert (len(report["restored"]), report["remade"], report["failed"]) == (1, 0, 0)
    assert [(store / name).read_bytes() for name in report["aside"]] == [damaged]
    assert ": whole" in run("verify", store).stdout


def test_repair_rejects_paths_without_a_store(tmp_path):
    assert "no feature store" in run("repair", tmp_path / "nowhere", code=2).stderr
