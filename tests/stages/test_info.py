from __future__ import annotations

import json

import pytest

from featstore.errors import UsageError
from featstore.stages.info import info


def test_each_kind_is_told_by_what_it_is(chain):
    store, head, index = (info(path) for path in (chain.store, chain.trained.path, chain.index))
    assert [found["kind"] for found in (store, head, index)] == ["store", "head", "index"]
    assert store["identity"] == head["identity"] == index["identity"]
    assert store["store_id"] == head["store_id"] == index["store_id"]
    assert head["classes"] == ["ant", "bee"]
    assert head["held_out"]["accuracy"]["value"] == chain.trained.report.accuracy.value
    assert (index["rows"], index["stale"], index["store_found"]) == (30, "", True)
    for found in (store, head, index):
        json.dumps(found, allow_nan=False)


def test_what_is_none_of_them(chain, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        info(tmp_path / "none")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UsageError, match="no store, head or index"):
        info(tmp_path / "x.txt")
    with pytest.raises(UsageError, match="no feature store"):
        info(tmp_path)
