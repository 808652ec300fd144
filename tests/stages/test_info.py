from __future__ import annotations

import json

import pytest

from featstore.cli.info import _store_text
from featstore.errors import UsageError
from featstore.stages.info import info
from featstore.store import FeatureStore


def test_info_detects_store_head_and_index_by_content(chain):
    store, head, index = (info(path) for path in (chain.store, chain.trained.path, chain.index))
    assert [found["kind"] for found in (store, head, index)] == ["store", "head", "index"]
    assert store["identity"] == head["identity"] == index["identity"]
    assert store["store_id"] == head["store_id"] == index["store_id"]
    assert head["classes"] == ["ant", "bee"]
    assert head["held_out"]["accuracy"]["value"] == chain.trained.report.accuracy.value
    assert (index["rows"], index["stale"], index["store_found"]) == (30, "", True)
    for found in (store, head, index):
        json.dumps(found, allow_nan=False)


def test_info_rejects_paths_that_are_no_store_head_or_index(chain, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        info(tmp_path / "none")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UsageError, match="no store, head or index"):
        info(tmp_path / "x.txt")
    with pytest.raises(UsageError, match="no feature store"):
        info(tmp_path)


def test_info_reports_which_instruction_sets_computed_the_vectors(chain, monkeypatch):
    (made,) = info(chain.store)["made_by"]
    assert info(chain.store)["instruction_sets"] == [made["instruction_set"]]
    assert "several instruction sets" not in _store_text(info(chain.store))
    assert f"({made['instruction_set']})" in _store_text(info(chain.store))
    ours = FeatureStore.provenance(FeatureStore.open(chain.store))
    both = {**ours, "other": [{**ours[next(iter(ours))][0], "instruction_set": "neon"}], "old": [{"engine": "torch"}]}
    monkeypatch.setattr(FeatureStore, "provenance", lambda self: both)
    found = info(chain.store)
    assert found["instruction_sets"] == sorted([made["instruction_set"], "neon"])
    assert "several instruction sets" in _store_text(found)
    assert "not bit for bit" in _store_text(found)
