from __future__ import annotations

import shutil

import pytest

from featstore.pages import duplicates
from featstore.pages.duplicates import write_duplicates_page
from featstore.stages.duplicates import find_duplicates
from tests.chain import make_store, names, write_coloured
from tests.page_reading import read, require_shown
from tests.pages.conftest import EVIL


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    place = tmp_path_factory.mktemp("duplicates")
    folder = write_coloured(place / "p", [*names("train", 3), *names("val", 2)])
    shutil.copy(folder / "train/ant/00.png", folder / "train/ant" / EVIL)
    (folder / "val/<script>alert(2)<").mkdir()
    shutil.copy(folder / "train/ant/00.png", folder / "val/<script>alert(2)</leak.png")
    return find_duplicates(make_store(folder, place / "s"), threshold=0.999999)


def test_duplicates_page_shows_copies_and_escapes_names(report, tmp_path):
    assert [len(group.copies) for group in report.groups] == [3]
    assert len(report.leaks) == 2
    write_duplicates_page(report, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert len(page.pictures) == 2 * 2 + 3
    assert EVIL.replace("\n", "\\n") in page.text
    assert "<script>alert(2)<" in page.text
    assert "2 pictures of train, 1 picture of val have a copy in another split" in page.text
    require_shown(tmp_path / "page.html")


def test_duplicates_page_shows_only_the_first_of_many_groups(report, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "SHOWN", 1)
    monkeypatch.setattr(duplicates, "COPIES", 2)
    write_duplicates_page(report, tmp_path / "page.html", root=tmp_path)
    page = read(tmp_path / "page.html")
    assert page.pictures == []
    assert "the first 1 of 2 pairs between splits are shown" in page.text
    assert "and 1 more" in page.text
    assert "missing" in page.text
