"""Run each recipe of the folder pipelines on a tiny folder of pictures, with options as users give them."""

from __future__ import annotations

from importlib import import_module

import pytest
from click.testing import CliRunner

from featstore.cli import run
from tests.chain import names, write_coloured
from tests.page_reading import read

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_workers")]

SMALL = ("--backbone", "squeezenet1_1", "--weights", "random:0")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def recipe(name: str, *arguments: object) -> str:
    main = import_module(f"pipelines.{name}").main
    result = CliRunner().invoke(main, [*map(str, arguments), *SMALL], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_dogs_vs_cats_pipeline_runs(tmp_path):
    write_coloured(tmp_path / "p", names("", 8))
    shown = recipe("dogs_vs_cats", "p")
    assert "squeezenet1_1, weights random:0" in shown
    assert "Rosebrock" not in shown
    assert "16 vectors, 0 could not be read" in shown
    read(tmp_path / "dogs-vs-cats.html")


def test_hymenoptera_pipeline_runs(tmp_path):
    write_coloured(tmp_path / "p", names("train", 6) + names("val", 3))
    shown = recipe("hymenoptera", "p")
    assert [line.split()[0] for line in shown.splitlines()] == ["logreg", "linear-svm", "rbf-svm", "knn", "best"]
    read(tmp_path / "hymenoptera.html")


def test_similar_images_pipeline_runs(tmp_path):
    write_coloured(tmp_path / "p", names("", 4))
    shown = recipe("similar_images", "p", "p/ant/02.png", "--k", 3)
    assert "p/ant/02.png: ant/02.png (1.000)" in shown
    assert len(read(tmp_path / "similar.html").pictures) == 4


@pytest.mark.parametrize("name", ["dogs_vs_cats", "hymenoptera"])
def test_pipelines_report_wrong_use_with_a_one_line_error(tmp_path, capsys, name):
    write_coloured(tmp_path / "p", [f"ant/{number}.png" for number in range(4)])
    with pytest.raises(SystemExit, match="2"):
        run(import_module(f"pipelines.{name}").main, ["p", *SMALL])
    (line,) = capsys.readouterr().err.splitlines()
    assert "class" in line
