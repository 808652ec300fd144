"""Tests of the command ``featstore verify``."""

from __future__ import annotations

import subprocess

import pytest

from tests.cli.running import run


@pytest.mark.slow
def test_verify_reports_a_flipped_bit(place, tmp_path):
    assert ": whole" in run("verify", place / "s").stdout
    subprocess.run(["cp", "-r", place / "s", tmp_path / "s"], check=True)
    (shard,) = (tmp_path / "s" / "shards").iterdir()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    assert "features does not match its checksum" in run("verify", tmp_path / "s", code=1).stdout
