from __future__ import annotations

from featstore.reports.training_page import write_training_page
from featstore.training import train
from tests.chain import make_store, names, write_coloured
from tests.pages import read, require_shown


def test_the_page_shows_the_worst_errors_and_the_figures(tmp_path):
    folder = write_coloured(tmp_path / "p", [*names("train", 8), *names("val", 4)])
    # Two pictures under the wrong name: they have to come up as errors.
    (folder / "val/ant/00.png").rename(folder / "val/bee/x.png")
    (folder / "val/bee/01.png").rename(folder / "val/ant/y.png")
    trained = train(make_store(folder, tmp_path / "s"), folds=3)
    write_training_page(trained, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert "val/bee/x.png" in page.text
    assert "val/ant/y.png" in page.text
    wrong = round((1 - trained.report.accuracy.value) * trained.report.rows)
    assert len(page.pictures) == wrong >= 2
    for text in (f"{100 * trained.report.accuracy.value:.1f} %", "macro F1", "Confusion matrix", "16 + 8"):
        assert text in page.text
    assert f"C = {trained.chosen['C']:g}" in page.text
    require_shown(tmp_path / "page.html")


def test_pictures_that_are_gone_are_said_so_in_their_place(tmp_path):
    folder = write_coloured(tmp_path / "p", [*names("train", 8), *names("val", 4)])
    (folder / "val/ant/00.png").rename(folder / "val/bee/x.png")
    trained = train(make_store(folder, tmp_path / "s"), folds=3)
    folder.rename(tmp_path / "moved")
    write_training_page(trained, tmp_path / "page.html")
    assert read(tmp_path / "page.html").pictures == []
    assert "missing" in read(tmp_path / "page.html").text
    write_training_page(trained, tmp_path / "page.html", root=tmp_path / "moved")
    assert read(tmp_path / "page.html").pictures


def test_names_are_escaped(hostile, tmp_path):
    _, _, trained, _ = hostile
    write_training_page(trained, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert "<script>alert(2)<" in page.text
