"""Tests of featstore.list_failures, which lists the pictures without a vector."""

from __future__ import annotations

import pytest

from featstore.errors import UsageError
from featstore.stages.failures import list_failures
from tests.chain import make_store, names, write_coloured


def test_list_failures_names_pictures_until_they_are_replaced(tmp_path):
    folder = write_coloured(tmp_path / "pictures", names("", 2))
    (folder / "ant/bad.png").write_bytes(b"<html>")
    (folder / "ant/none.png").write_bytes(b"")
    store = make_store(folder, tmp_path / "s")
    found = {key: failure.reason for key, failure in list_failures(store)}
    assert found == {"ant/bad.png": "not-a-picture", "ant/none.png": "empty"}
    write_coloured(folder, ["ant/bad.png"])
    make_store(folder, store)
    assert [key for key, _ in list_failures(store)] == ["ant/none.png"]


def test_list_failures_rejects_a_folder_that_is_no_store(tmp_path):
    with pytest.raises(UsageError, match="no feature store"):
        list_failures(tmp_path)
