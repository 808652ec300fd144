"""Tests of the command ``featstore predict``."""

from __future__ import annotations

import csv
import io

import pytest

from tests.cli.running import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def head(indexed, tmp_path_factory):
    path = tmp_path_factory.mktemp("predict") / "a.head"
    run("train", indexed / "s", "--head", "knn", "--out", path)
    return path


def test_predict_gives_the_same_classes_for_a_store_and_its_pictures(indexed, head):
    of_store = {
        row["key"]: row["label"]
        for row in csv.DictReader(io.StringIO(run("predict", head, indexed / "s", "--csv").stdout))
    }
    of_folder = {
        row["key"]: row["label"]
        for row in csv.DictReader(io.StringIO(run("predict", head, indexed / "pictures", "--csv").stdout))
    }
    assert len(of_store) == 11
    assert list(of_folder.values()) == list(of_store.values())
    assert set(of_store.values()) == {"ant", "bee"}


def test_predict_lists_unreadable_pictures_and_exits_with_1(indexed, head, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    text = run("predict", head, indexed / "pictures/ant/00.png", tmp_path / "bad.jpg", code=1).stdout
    assert "empty" in text
    assert "ant/00.png" in text


def test_predict_command_refuses_a_folder_in_place_of_a_head(indexed):
    said = run("predict", indexed / "pictures", indexed / "s", code=2).stderr
    assert "is a folder, not a head" in said
    assert "the head comes first: featstore predict HEAD PICTURES" in said
