from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from featstore.cli import featstore
from featstore.errors import UsageError
from featstore.stages.bench import bench_store


@pytest.mark.slow
def test_bench_compares_store_shards_with_plain_files(in_this_process, tmp_path):
    report = bench_store(tmp_path, megabytes=1, dimension=64, rounds=2).to_dict()
    names = [
        f"{what} {dtype}, {kind}"
        for dtype in ("float32", "float16")
        for what in ("write", "scan", "gather")
        for kind in ("plain", "store")
    ]
    assert [each["name"] for each in report["contenders"]] == names
    by_name = {each["name"]: each for each in report["contenders"]}
    assert all(len(each["rates"]) == 2 and min(each["rates"]) > 0 for each in by_name.values())
    for dtype, rows in (("float32", 4096), ("float16", 8192)):
        # A plain file holds only the vectors; a shard also holds keys and checksums.
        assert by_name[f"write {dtype}, plain"]["bytes"] == 1 << 20
        assert by_name[f"write {dtype}, store"]["bytes"] > 1 << 20
        for kind in ("plain", "store"):
            assert by_name[f"scan {dtype}, {kind}"]["rows"] == rows
            assert by_name[f"gather {dtype}, {kind}"]["rows"] == min(rows, 10_000)
        shares = report["shares"][dtype]
        assert set(shares) == {"write", "scan", "gather_us", "plain_gather_us"}
        size = 64 * (4 if dtype == "float32" else 2)
        assert shares["gather_us"] == pytest.approx(size / by_name[f"gather {dtype}, store"]["median"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bench_store_command_prints_a_table_or_json(in_this_process, tmp_path):
    asked = ["bench", "--store", str(tmp_path), "--megabytes", "1", "--rounds", "1"]
    text = CliRunner().invoke(featstore, asked, standalone_mode=False).stdout
    assert "write float16, plain" in text
    assert text.count("of write() and fsync") == 2
    report = json.loads(CliRunner().invoke(featstore, [*asked, "--json"], standalone_mode=False).stdout)
    assert (report["directory"], report["megabytes"], len(report["contenders"])) == (str(tmp_path), 1, 12)


def test_invalid_arguments_of_bench_store_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="nowhere: is no folder"):
        bench_store(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="at least 1"):
        bench_store(tmp_path, megabytes=0)
    refused = CliRunner().invoke(featstore, ["bench", "pictures", "--store", str(tmp_path)], standalone_mode=False)
    assert "leave PICTURES out" in str(refused.exception)
