"""Tests of the command ``featstore import``."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cli.running import run, run_json


@pytest.mark.slow
def test_import_writes_vectors_into_a_store(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(3, 4, dtype=np.float16))
    (tmp_path / "k.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    told = run("import", "v.npy", "s", "--keys", "k.txt", "--identity", "their net", cwd=tmp_path).stdout
    assert told.startswith("s: 3 vectors of 4 x float16, imported as their net\nrows: 3 listed: 3 added")
    again = run_json("import", "v.npy", "s", "--keys", "k.txt", "--identity", "their net", cwd=tmp_path)
    assert (again["change"]["unchanged"], again["written"]) == (3, 0)
    assert "cannot make such features" in run("extract", ".", "s", cwd=tmp_path, code=2).stderr


@pytest.mark.slow
def test_import_reports_usage_errors_in_one_line(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(3, 4))
    for arguments, words in (
        (("v.npy", "s"), "--identity has to name"),
        (("w.npy", "s", "--identity", "n"), "w.npy: does not exist"),
        (("v.npy", "s", "--identity", "n", "--keys", "k"), "neither a file nor a column"),
    ):
        error = run("import", *arguments, cwd=tmp_path, code=2).stderr
        assert words in error
        assert error.count("\n") == 1
