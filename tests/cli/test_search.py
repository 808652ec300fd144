"""Tests of the command ``featstore search``."""

from __future__ import annotations

import pytest

from tests.cli.running import run, run_json
from tests.page_reading import read

pytestmark = pytest.mark.slow


def test_search_returns_the_query_picture_first(indexed, tmp_path):
    query = indexed / "pictures/bee/03.png"
    found = run_json("search", indexed / "s.faiss", query, "--k", "3", "--html", tmp_path / "page.html")
    assert found["queries"][0]["neighbours"][0]["key"] == "bee/03.png"
    assert found["queries"][0]["neighbours"][0]["label"] == "bee"
    assert len(read(tmp_path / "page.html").pictures) == 4
    (tmp_path / "bad.jpg").write_bytes(b"")
    result = run("search", indexed / "s.faiss", query, tmp_path / "bad.jpg", code=1)
    assert "failed: empty" in result.stdout
    assert "1.0000  bee/03.png  (bee)" in result.stdout


def test_search_combines_keys_classes_and_filters(indexed, tmp_path):
    asked = ("--key", "bee/03.png", "--like-label", "ant", "--where", "label == 'ant' and key glob '*/0[0-2].png'")
    assert "0 of 11 pictures where label == 'ant'" in run("search", indexed / "s.faiss", *asked).stdout
    asked = ("--key", "bee/03.png", "--less-key", "bee/04.png", "--less-label", "ant", "--where", "key glob '*/00.png'")
    found = run_json("search", indexed / "s.faiss", *asked, "--html", tmp_path / "page.html")
    assert found["kept"] == 2
    assert found["queries"][0]["query"].startswith("bee/03.png - bee/04.png - the middle of ant")
    assert {one["key"] for one in found["queries"][0]["neighbours"]} == {"ant/00.png", "bee/00.png"}
    page = read(tmp_path / "page.html")
    assert len(page.pictures) == 2
    assert "those 2 of the 11 pictures where key glob '*/00.png', of" in page.text


def test_search_page_has_a_note_that_pictures_are_missing(indexed, tmp_path):
    asked = ("search", indexed / "s.faiss", "--key", "bee/03.png", "--k", "2", "--html", tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    note = f"3 pictures of this page are not below {tmp_path / 'empty'}: --root says where they are now"
    assert f"note: {note}\n" in run(*asked, "--root", tmp_path / "empty").stdout
    page = read(tmp_path / "page.html")
    assert (len(page.pictures), note in page.text) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "nowhere"), "no feature store"),
        (("search", "nowhere.faiss", "a.jpg"), "no such index"),
        (("index", "{s}", "--update", "--out", "new.faiss"), "no such index"),
        (("search", "{s}", "a.jpg"), "is a folder, not an index"),
        (("search", "{s}/../pictures/ant/00.png", "{s}.faiss"), "the index comes first: featstore search INDEX"),
        (("search", "{s}.faiss", "--key", "bee/03.png", "--where", "label = 1"), "filter, character 7: '='"),
        (("duplicates", "nowhere"), "no feature store"),
    ],
)
def test_search_reports_usage_errors_in_one_line(indexed, tmp_path, arguments, message):
    result = run(*[argument.format(s=indexed / "s") for argument in arguments], cwd=tmp_path, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "{s}.faiss", "--key", "bee/03.png", "--k", "2", "--k=3"),
        ("duplicates", "{s}", "--threshold", "0.9", "--threshold", "0.8"),
        ("index", "{s}", "--out", "a", "--out", "b"),
        ("train", "{s}", "--head", "knn", "--head", "logreg"),
        ("extract", "x", "y", "--backbone", "resnet18", "--backbone", "resnet50"),
    ],
)
def test_option_that_takes_one_value_is_refused_if_given_twice(indexed, tmp_path, arguments):
    result = run(*[argument.format(s=indexed / "s") for argument in arguments], cwd=tmp_path, code=2)
    assert "is given 2 times; give it once" in result.stderr
    assert result.stdout == ""
