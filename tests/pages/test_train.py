from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from featstore.pages.figures import write_figures
from featstore.pages.parts import PICTURES_OF_CELL
from featstore.pages.train import write_training_page
from featstore.stages.train import train
from tests.chain import make_store, names, write_coloured
from tests.page_reading import read, require_shown


def test_training_page_shows_the_worst_errors_and_the_figures(tmp_path):
    folder = write_coloured(tmp_path / "p", [*names("train", 8), *names("val", 4)])
    # Two pictures with the wrong label must be listed as errors.
    (folder / "val/ant/00.png").rename(folder / "val/bee/x.png")
    (folder / "val/bee/01.png").rename(folder / "val/ant/y.png")
    trained = train(make_store(folder, tmp_path / "s"), folds=3)
    write_training_page(trained, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert "val/bee/x.png" in page.text
    assert "val/ant/y.png" in page.text
    wrong = round((1 - trained.report.accuracy.value) * trained.report.rows)
    assert wrong >= 2
    # A picture with a wrong prediction is shown twice: among the worst errors, and in its cell of the confusion
    # matrix. A cell of right predictions shows at most PICTURES_OF_CELL pictures.
    right = np.diag(trained.report.table.confusion)
    assert len(page.pictures) == 2 * wrong + np.minimum(right, PICTURES_OF_CELL).sum()
    assert {"#cell-0-1", "#cell-1-0"} <= set(page.addresses)
    assert {"cell-0-1", "cell-1-0"} <= page.places
    for text in (f"{100 * trained.report.accuracy.value:.1f} %", "macro F1", "Confusion matrix", "16 + 8"):
        assert text in page.text
    assert f"C = {trained.chosen['C']:g}" in page.text
    for title in (
        "Precision against recall",
        "Probabilities before temperature scaling",
        "How the parameter was chosen",
        "chosen on the training pictures alone",
        "among equally good values the one with the smallest log loss",
    ):
        assert title in page.text
    require_shown(tmp_path / "page.html")

    written = write_figures(trained, tmp_path / "page.html")
    wanted = [
        "calibration.png",
        "calibration-before.png",
        "confusion.png",
        "precision-recall.png",
        "selection.png",
        "json",
    ]
    assert {path.name for path in written} == {f"page.{name}" for name in wanted}
    for path in written[:-1]:
        colours = Image.open(path).convert("RGB").getcolors(1 << 20)
        assert len(colours) > 10
    assert json.loads(written[-1].read_text()) == json.loads(json.dumps(trained.to_dict()))


def test_training_page_says_which_parameters_the_user_gave(hostile, tmp_path):
    _, store, _, _ = hostile
    trained = train(store, head="rbf-svm", C=1.0, gamma=0.5, folds=3, out=tmp_path / "x.head")
    write_training_page(trained, tmp_path / "page.html")
    text = read(tmp_path / "page.html").text
    assert "C = 1, gamma = 0.5" in text
    assert "as given" in text
    assert "chosen" not in text
    assert "Support vector machine with RBF kernel" in text


def test_training_page_has_a_note_for_missing_pictures(tmp_path):
    folder = write_coloured(tmp_path / "p", [*names("train", 8), *names("val", 4)])
    (folder / "val/ant/00.png").rename(folder / "val/bee/x.png")
    trained = train(make_store(folder, tmp_path / "s"), folds=3)
    folder.rename(tmp_path / "moved")
    write_training_page(trained, tmp_path / "page.html")
    assert read(tmp_path / "page.html").pictures == []
    assert "missing" in read(tmp_path / "page.html").text
    write_training_page(trained, tmp_path / "page.html", root=tmp_path / "moved")
    assert read(tmp_path / "page.html").pictures


def test_training_page_escapes_names(hostile, tmp_path):
    _, _, trained, _ = hostile
    write_training_page(trained, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert "<script>alert(2)<" in page.text


def test_training_page_names_a_classifier_class_of_another_package(hostile, tmp_path):
    pytest.importorskip("skops")
    kind = "sklearn.tree:DecisionTreeClassifier"
    trained = train(hostile[1], head=kind, folds=3, out=tmp_path / "a.head")
    write_training_page(trained, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    for text in ("DecisionTreeClassifier on s", "as given", "Probabilities before temperature scaling"):
        assert text in page.text
    assert "How the parameter was chosen" not in page.text
