from __future__ import annotations

import pytest

from tests.chain import names, write_coloured
from tests.command.running import run, run_json
from tests.pages import read

SMALL = ("--backbone", "squeezenet1_1", "--weights", "random:0", "--batch", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("searching")
    write_coloured(place / "pictures", names("", 5))
    run("extract", place / "pictures", place / "s", *SMALL)
    return place


def test_index_search_and_update(place, tmp_path):
    built = run_json("index", place / "s")
    assert (built["rows"], built["added"], built["index"]) == (10, 10, str(place / "s.faiss"))
    assert "recall: 1" in run("index", place / "s", "--out", tmp_path / "x.faiss").stdout
    query = place / "pictures/bee/03.png"
    found = run_json("search", place / "s.faiss", query, "--k", "3", "--html", tmp_path / "page.html")
    assert found["queries"][0]["neighbours"][0]["key"] == "bee/03.png"
    assert found["queries"][0]["neighbours"][0]["label"] == "bee"
    assert len(read(tmp_path / "page.html").pictures) == 4
    (tmp_path / "bad.jpg").write_bytes(b"")
    result = run("search", place / "s.faiss", query, tmp_path / "bad.jpg", code=1)
    assert "failed: empty" in result.stdout
    assert "1.0000  bee/03.png  (bee)" in result.stdout

    write_coloured(place / "pictures", ["ant/50.png"], seed=4)
    run("extract", place / "pictures", place / "s", *SMALL)
    assert "1 pictures are not in the index" in run("search", place / "s.faiss", query).stdout
    assert "1 pictures are not in the index" in run("info", place / "s.faiss").stdout
    assert "1 added, 0 removed" in run("index", place / "s", "--update").stdout
    assert run_json("info", place / "s.faiss")["stale"] == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "nowhere"), "no feature store"),
        (("search", "nowhere.faiss", "a.jpg"), "no such index"),
        (("index", "{s}", "--update", "--out", "new.faiss"), "no such index"),
        (("search", "{s}", "a.jpg"), "is a folder, not an index"),
    ],
)
def test_mistakes_end_in_one_line(place, tmp_path, arguments, message):
    result = run(*[argument.format(s=place / "s") for argument in arguments], cwd=tmp_path, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
