"""Run each recipe of the folder pipelines on a tiny folder of pictures, with options as users give them."""

from __future__ import annotations

from importlib import import_module

import pytest
from click.testing import CliRunner

from featstore.artifacts.model import load_model
from featstore.cli import run
from tests.chain import COLOURS, names, write_coloured
from tests.page_reading import read
from tests.stages.test_units import LABELS, linear, made, write_head

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


def test_class_units_pipeline_runs(tmp_path):
    store = made(tmp_path / "s")
    features = store.features()
    # With these weights every contribution is a square.
    weights = [features[store.labels == name].mean(axis=0) - features.mean(axis=0) for name in LABELS]
    head = write_head(tmp_path / "h", store, LABELS, linear(weights))
    main = import_module("pipelines.class_units").main
    shown = CliRunner().invoke(main, [str(store.path), str(head), "--count", "2"], catch_exceptions=False).output
    assert [line.split()[0] for line in shown.splitlines()] == ["ant:", "bee:", "cow:"]
    assert "Units for cow" in read(tmp_path / "class-units/2.html").text


def tuned(name: str, *arguments: object) -> str:
    main = import_module(f"pipelines.tuned_{name}").main
    given = [*map(str, arguments), "--weights", "random:0"]
    result = CliRunner().invoke(main, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_tuned_hymenoptera_pipeline_augments_and_balances(tmp_path):
    write_coloured(tmp_path / "p", [*names("train", 6, ("ant",)), *names("train", 3, ("bee",)), *names("val", 3)])
    shown = tuned("hymenoptera", "p", "--backbone", "squeezenet1_1", "--size", 32, "--epochs", 1)
    assert "frozen up to and including features.11" in shown
    assert "fine-tuned against the frozen head: accuracy" in shown
    options = load_model(tmp_path / "hymenoptera.model").record["options"]
    assert (options["augment"], options["balance"]) == ("standard", "sampler")
    read(tmp_path / "tuned-hymenoptera.html")


def test_tuned_dogs_vs_cats_pipeline_has_one_output_and_freezes_up_to_block_12(tmp_path):
    write_coloured(tmp_path / "p", names("train", 4) + names("test", 2))
    shown = tuned("dogs_vs_cats", "p", "--size", 32, "--epochs", 1)
    assert "frozen up to and including features.13:" in shown
    assert "output: 1 unit, the probability of bee" in shown
    assert load_model(tmp_path / "dogs-vs-cats.model").head.model.coef.shape == (1, 1280)
    read(tmp_path / "tuned-dogs-vs-cats.html")


def test_tuned_flowers_pipeline_trains_the_head_first_and_then_the_block(tmp_path):
    write_coloured(tmp_path / "p", names("", 8, tuple(COLOURS)))
    given = ("--backbone", "squeezenet1_1", "--block", "features.12", "--size", 32, "--head-epochs", 1, "--epochs", 1)
    lines = tuned("flowers", "p", *given).splitlines()
    assert [line.split(" frozen")[0] for line in lines[:3]] == [
        "epoch 0: all but the head", "epoch 1: all but the head", "epoch 2: before features.12",
    ]  # fmt: skip
    read(tmp_path / "tuned-flowers.html")


def test_tuned_rock_paper_scissors_pipeline_trains_the_auxiliary_classifier(tmp_path):
    write_coloured(tmp_path / "p", names("train", 2, tuple(COLOURS)) + names("test", 1, tuple(COLOURS)))
    shown = tuned("rock_paper_scissors", "p", "--epochs", 1)
    assert "frozen up to and including Mixed_6d:" in shown
    assert "note: the auxiliary classifier was trained along and is not saved" in shown
    assert load_model(tmp_path / "rock-paper-scissors.model").backbone.preprocessing.crop == 299
    read(tmp_path / "tuned-rock-paper-scissors.html")


@pytest.mark.parametrize("name", ["dogs_vs_cats", "hymenoptera"])
def test_pipelines_report_wrong_use_with_a_one_line_error(tmp_path, capsys, name):
    write_coloured(tmp_path / "p", [f"ant/{number}.png" for number in range(4)])
    with pytest.raises(SystemExit, match="2"):
        run(import_module(f"pipelines.{name}").main, ["p", *SMALL])
    (line,) = capsys.readouterr().err.splitlines()
    assert "class" in line
