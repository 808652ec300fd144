"""featstore.verify: intact stores, heads and indexes pass, and damage is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from featstore.errors import UsageError
from featstore.stages.verify import verify


@pytest.fixture
def copies(chain, tmp_path):
    shutil.copytree(chain.store, tmp_path / "s")
    shutil.copy(chain.trained.path, tmp_path / "a.head")
    for suffix in ("", ".featstore"):
        shutil.copy(f"{chain.index}{suffix}", tmp_path / f"a.index{suffix}")
    return tmp_path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "damaged"), [("s", "s/shards"), ("a.head", "a.head"), ("a.index", "a.index"), ("a.index.featstore", "a.index.featstore")])  # fmt: skip
def test_verify_finds_one_flipped_bit_in_a_store(copies, name, damaged):
    report = verify(copies / name)
    assert (report.problems, report.bytes > 0) == ([], True)
    path = copies / damaged
    flip(next(iter(path.iterdir())) if path.is_dir() else path)
    assert len(verify(copies / name).problems) >= 1


def test_verify_rejects_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError, match="there is no such store, head or index"):
        verify(tmp_path / "nowhere")
