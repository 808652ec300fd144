from __future__ import annotations

import os
import re

from featstore.pages.search import write_search_page
from featstore.stages.queries import Query
from featstore.stages.search import search
from tests.made import tiny_backbone
from tests.page_reading import read, require_shown
from tests.pages.conftest import EVIL


def test_search_page_shows_queries_with_neighbours_and_escapes_names(hostile, tmp_path):
    folder, _, _, index = hostile
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    queries = [
        folder / "val/ant" / EVIL,
        os.fsdecode(os.fsencode(folder) + b"/val/ant/\xff\xfe.png"),
        tmp_path / "bad.jpg",
    ]
    report = search(index, queries, k=24, backbone=tiny_backbone())
    assert report.failures == 1
    write_search_page(report, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert len(page.pictures) == 2 + 2 * 24
    assert EVIL.replace("\n", "\\n") in page.text
    assert "\\xff\\xfe.png" in page.text.replace("\\udcff\\udcfe", "\\xff\\xfe")
    assert "could not be read" in page.text
    # Every picture links to its original file.
    assert len(page.originals) == len(page.pictures)
    assert {os.path.realpath(path) for path in page.originals} <= {
        os.path.realpath(path) for path in folder.rglob("*.png")
    }
    assert str(folder / "val/ant" / EVIL) in page.originals
    assert "ant" in page.text
    for found in report.queries[0].neighbours:
        # The label and the score of a neighbour are separated by a space.
        assert re.search(rf"{re.escape(found.label)}\s+cosine {found.score:.3f}", page.text)
    require_shown(tmp_path / "page.html")


def test_search_page_has_a_note_for_missing_pictures(hostile, tmp_path):
    folder, _, _, index = hostile
    query = folder / "val/ant/02.png"
    report = search(index, query, k=3, backbone=tiny_backbone())
    write_search_page(report, tmp_path / "page.html", root=tmp_path)
    page = read(tmp_path / "page.html")
    assert len(page.pictures) == 1
    assert "missing" in page.text


def test_search_page_shows_the_full_name_of_a_combined_query(hostile, tmp_path):
    _, _, _, index = hostile
    like = Query(keys=["train/ant/02.png", "train/ant/03.png"])
    write_search_page(search(index, like=like, combine=True, k=2), tmp_path / "page.html")
    assert "Nearest to train/ant/02.png + train/ant/03.png" in read(tmp_path / "page.html").text
    write_search_page(search(index, like=Query(keys=["train/ant/02.png"]), k=2), tmp_path / "page.html")
    assert "Nearest to 02.png" in read(tmp_path / "page.html").text
