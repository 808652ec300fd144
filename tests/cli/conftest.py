"""Stores shared by many tests of the command line, which only read them."""

from __future__ import annotations

import shutil

import pytest

from tests.chain import names, write_coloured
from tests.cli.running import SMALL, UNTRAINED, run, run_json
from tests.made import write_pictures


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with pictures, one of them unreadable, and their finished store ("s"). Tests only read it."""
    place = tmp_path_factory.mktemp("command")
    write_pictures(place / "pictures", ["train/ant/1.jpg", "train/bee/2.png", "val/ant/3.jpg", "val/bee/4.jpg"])
    (place / "pictures/val/bee/bad \n name.jpg").write_bytes(b"<html>")
    report = run_json("extract", place / "pictures", place / "s", *SMALL)
    assert (report["images"], report["vectors"], report["failures"], report["pending"]) == (5, 4, 1, 0)
    return place


@pytest.fixture(scope="session")
def indexed(tmp_path_factory):
    """A folder with eleven pictures of two classes (one an exact copy), their store and index. Tests only read it."""
    place = tmp_path_factory.mktemp("searching")
    write_coloured(place / "pictures", names("", 5))
    shutil.copy(place / "pictures/ant/00.png", place / "pictures/bee/copy.png")
    run("extract", place / "pictures", place / "s", *UNTRAINED)
    built = run_json("index", place / "s")
    assert (built["rows"], built["added"], built["index"]) == (11, 11, str(place / "s.faiss"))
    return place
