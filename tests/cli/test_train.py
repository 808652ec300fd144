from __future__ import annotations

import csv
import io

import click
import pytest

from featstore.cli.train import train
from featstore.heads import load_head
from featstore.stages.predict import predict
from featstore.store import FeatureStore
from tests.chain import names, write_coloured
from tests.cli.running import run, run_json
from tests.made import extract
from tests.page_reading import read

pytestmark = pytest.mark.slow

SMALL = ("--backbone", "squeezenet1_1", "--weights", "random:0", "--batch", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with pictures of two classes in two splits, and their store; tests only read it."""
    place = tmp_path_factory.mktemp("learning")
    write_coloured(place / "pictures", names("train", 6) + names("val", 3))
    run("extract", place / "pictures", place / "s", *SMALL)
    return place


def test_train_prints_figures_and_writes_head_and_page(place, tmp_path):
    shown = run("train", place / "s", "--folds", "2", "--report", tmp_path / "page.html").stdout
    assert str(place / "s.logreg.head") in shown
    for text in ("C = ", "accuracy", "macro F1", "confusion matrix", "page: ", "learnt from train (12 pictures)"):
        assert text in shown
    read(tmp_path / "page.html")
    trained = run_json("train", place / "s", "--folds", "2", "--head", "linear-svm", "--out", tmp_path / "b.head")
    assert trained["classes"] == ["ant", "bee"]
    assert 0 <= trained["held_out"]["estimates"]["accuracy"]["low"] <= 1
    assert run_json("info", tmp_path / "b.head")["kind"] == "head"
    assert "linear-svm" in run("info", tmp_path / "b.head").stdout

    # A picture file gets the same prediction as its row in the store.
    one = place / "pictures/val/ant/01.png"
    by_picture = run_json("predict", tmp_path / "b.head", one)["images"][0]
    by_store = {found["key"]: found for found in run_json("predict", tmp_path / "b.head", place / "s")["images"]}
    assert by_picture["label"] == by_store["val/ant/01.png"]["label"]
    assert by_picture["probability"] == pytest.approx(by_store["val/ant/01.png"]["probability"], abs=1e-4)
    assert len(by_store) == 18

    (tmp_path / "bad \n.jpg").write_bytes(b"<html>")
    result = run("predict", tmp_path / "b.head", one, tmp_path / "bad \n.jpg", "--csv", code=1)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["reason"] for row in rows] == ["", "not-a-picture"]
    assert float(rows[0]["ant"]) + float(rows[0]["bee"]) == pytest.approx(1, abs=1e-4)
    assert "1 picture could not be read" in result.stderr
    lines = run("predict", tmp_path / "b.head", place / "s").stdout.splitlines()
    assert len(lines) == 18
    assert lines[0].startswith("train/ant/00.png: ")


def test_train_on_two_stores_writes_a_page_and_figures(place, tmp_path):
    extract(place / "pictures", place / "t", backbone="squeezenet1_1", weights="random:1")
    options = ("--C", "0.1", "--folds", "2", "--out", tmp_path / "a.head", "--report", tmp_path / "a.html", "--beside")
    trained = run_json("train", "--store", place / "s", "--store", place / "t", *options)
    assert trained["stores"] == [str(place / "s"), str(place / "t")]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("a.head", "a.html", "a.json", "a.calibration.png", "a.calibration-before.png"),
        *("a.confusion.png", "a.precision-recall.png"),
    }
    assert sorted(trained["figures"]) == sorted(
        str(path) for path in tmp_path.iterdir() if path.suffix in (".png", ".json")
    )
    by_store = {one.key: one.probability for one in predict(tmp_path / "a.head", [place / "t", place / "s"])}
    weights = ("--weights", "random:0", "--weights", "random:1")
    (by_picture,) = run_json("predict", tmp_path / "a.head", place / "pictures/val/ant/01.png", *weights)["images"]
    assert by_store["val/ant/01.png"] == pytest.approx(by_picture["probability"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nowhere"), "no feature store"),
        (("train",), "name a store to learn from"),
        (("train", "{s}", "--beside"), "--beside writes figures beside the page"),
        (("train", "{s}", "--beside", "--report", "x.json"), "give the page of --report another ending"),
        (("train", "{s}", "--C", "0"), "neither auto nor a number"),
        (("train", "{s}", "--folds", "1.5"), "neither a number of folds"),
        (("train", "{s}", "--train-split", "x"), "no pictures of split"),
        (("train", "{s}", "--out", "nowhere/a.head"), "nowhere; make it first"),
        (("predict", "nowhere.head", "a.jpg"), "no such head"),
        (("predict", "{s}/featstore.json", "a.jpg"), "is no head, or its first bytes are damaged"),
        (("predict", "{s}", "a.jpg", "--json", "--csv"), "exclude each other"),
    ],
)
def test_train_reports_usage_errors_in_one_line(place, tmp_path, arguments, message):
    arguments = [argument.format(s=place / "s") for argument in arguments]
    result = run(*arguments, cwd=tmp_path, code=2)
    assert message in result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) <= 4  # click adds usage lines to the message.


def test_training_does_not_change_the_store(place):
    before = {path: path.stat().st_mtime_ns for path in (place / "s").rglob("*")}
    run("train", place / "s", "--folds", "2", "--out", place / "c.head")
    run("predict", place / "c.head", place / "s")
    assert {path: path.stat().st_mtime_ns for path in (place / "s").rglob("*")} == before
    assert len(FeatureStore.open(place / "s")) == 18


def test_train_again_reproduces_a_head_bit_for_bit(place, tmp_path):
    run("train", place / "s", "--folds", "2", "--out", tmp_path / "a.head")
    assert "equal bit for bit" in run("train", "--again", tmp_path / "a.head").stdout
    report = run_json("train", place / "s", "--again", tmp_path / "a.head", "--out", tmp_path / "b.head")
    assert (report["equal"], report["rows"], report["path"]) == (True, 12, str(tmp_path / "b.head"))
    assert (
        "is a head of logreg, not of knn"
        in run("train", "--again", tmp_path / "a.head", "--head", "knn", code=2).stderr
    )


def test_train_and_predict_with_a_scikit_learn_class_and_its_parameters(place, tmp_path):
    pytest.importorskip("skops")
    kind, head = "sklearn.ensemble:RandomForestClassifier", tmp_path / "a.head"
    given = ("--head", kind, "--set", "n_estimators=3", "--set", "max_features=sqrt", "--folds", "2", "--out", head)
    made = run_json("train", place / "s", *given)
    assert (made["kind"], made["chosen"]) == (kind, {})
    parameters = load_head(head).meta["parameters"]
    assert (parameters["n_estimators"], parameters["max_features"]) == (3, "sqrt")
    found = run("predict", head, place / "s", "--trust", "sklearn.tree._tree.Tree").stdout
    assert len(found.splitlines()) == 18
    assert "equal bit for bit" in run("train", "--again", head, "--head", kind).stdout


def test_multilayer_perceptron_is_trained_with_its_options_and_predicts(place, tmp_path):
    head, page = tmp_path / "a.head", tmp_path / "a.html"
    given = ("--hidden", "16", "--hidden", "8", "--dropout", "0.1", "--output", "sigmoid", "--balance", "sampler")
    shown = run("train", place / "s", "--head", "mlp", *given, "--set", "epochs=9", "--out", head, "--report", page)
    assert ": mlp, epochs = " in shown.stdout
    read(page)
    loaded = load_head(head)
    parameters = {
        name: loaded.meta["parameters"][name] for name in ("hidden", "dropout", "output", "balance", "epochs")
    }
    assert list(parameters.values()) == [[16, 8], 0.1, "sigmoid", "sampler", 9]
    assert [weight.shape for weight in loaded.model.weights] == [(16, 512), (8, 16), (1, 8)]
    assert len(run("predict", head, place / "s").stdout.splitlines()) == 18
    assert "equal bit for bit" in run("train", "--again", head).stdout
    assert "replaced the head that was there: mlp, epochs = " in run("train", "--update", head).stdout
    run("train", place / "s", "--head", "mlp", "--balanced", "--out", tmp_path / "b.head")
    assert load_head(tmp_path / "b.head").meta["parameters"]["class_weight"] == "balanced"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--hidden", "8"), "--hidden is an option of --head mlp, not of logreg"),
        (("--head", "sklearn.svm:SVC", "--balance", "sampler"), "--balance is an option of --head mlp, not of sklearn"),
        (("--head", "mlp", "--hidden", "8", "--set", "hidden=9"), "hidden is given twice"),
        (("--head", "mlp", "--balanced", "--balance", "sampler"), "--balanced and --balance sampler both balance"),
        (("--head", "mlp", "--set", "dropuot=0.1"), "did you mean 'dropout'"),
        (("--again", "a.head", "--hidden", "9"), "leave out --hidden"),
        (("--set", "standardise=False"), "did you mean 'standardize'"),
        (("--head", "sklearn.svm:SVC", "--set", "out=3"), "is no parameter of the head"),
        (("--head", "sklearn.svm:SVC", "--set", "meta=3"), "is no parameter of the head"),
        (("--set", "tol"), "is not NAME=VALUE"),
        (("--set", "tol={1}"), "a value is a number, text"),
        (("--set", "tol=1", "--set", "tol=2"), "tol is given twice"),
        (("--again", "a.head", "--set", "tol=1"), "leave out --set"),
    ],
)
def test_train_command_rejects_invalid_head_parameters(wrong, message):
    with pytest.raises(click.UsageError, match=message):
        train.main(["s", *wrong], standalone_mode=False)


@pytest.fixture(scope="module")
def targets(place):
    """A store with a column of label sets and a column of numbers."""
    run("extract", place / "pictures", place / "u", *SMALL)
    keys = names("train", 6) + names("val", 3)
    rows = [f"{key},{'warm;' if number % 2 else ';'}{key.split('/')[1]},{number}" for number, key in enumerate(keys)]
    (place / "u.csv").write_text("\n".join(["path,tags,size", *rows]) + "\n")
    run("label", place / "u", place / "u.csv")
    return place / "u"


def test_train_and_predict_commands_work_with_label_sets(targets, tmp_path):
    head, page = tmp_path / "a.head", tmp_path / "a.html"
    given = ("--labels", "tags", "--separator", ";", "--folds", "2", "--set", "thresholds=0.4", "--out", head)
    shown = run("train", targets, *given, "--report", page).stdout
    for text in (": logreg, C = ", "(3 labels, ", "mean average precision", "threshold"):
        assert text in shown
    read(page)
    rows = list(csv.DictReader(io.StringIO(run("predict", head, targets, "--csv").stdout)))
    assert list(rows[0]) == ["key", "labels", "ant", "bee", "warm", "reason"]
    for row in rows:
        assert (
            row["labels"].split(";") == [name for name in ("ant", "bee", "warm") if float(row[name]) >= 0.4]
            or not row["labels"]
        )
    told = run_json("predict", head, targets)["images"][0]
    assert set(told) == {"key", "labels", "probabilities"}
    assert len(run("predict", head, targets).stdout.splitlines()) == 18
    assert "predicts label sets of the column tags, separated by ;" in run("info", head).stdout
    assert "equal bit for bit" in run("train", "--again", head).stdout
    assert "replaced the head that was there: logreg, C = " in run("train", "--update", head).stdout
    perceptron = ("--head", "mlp", "--output", "sigmoid", "--hidden", "8", "--out", tmp_path / "b.head")
    shown = run("train", targets, "--labels", "tags", "--separator", ";", *perceptron).stdout
    assert ": mlp, epochs = " in shown
    assert "mean average precision" in shown
    said = run("train", targets, "--head", "mlp", "--folds", "3", code=2).stderr
    assert "--folds: the mlp head has no cross-validation" in said
    said = run("train", targets, "--labels", "tags", "--separator", "|", code=2).stderr
    assert "the separator '|' is in no text" in said


def test_train_and_predict_commands_work_with_numbers(targets, tmp_path):
    head, page = tmp_path / "a.head", tmp_path / "a.html"
    shown = run(
        "train", targets, "--target", "size", "--folds", "2", "--out", head, "--report", page, "--beside"
    ).stdout
    for text in (": ridge, alpha = ", "(size, ", "R2", "mean absolute error"):
        assert text in shown
    read(page)
    rows = list(csv.DictReader(io.StringIO(run("predict", head, targets, "--csv").stdout)))
    assert list(rows[0]) == ["key", "number", "reason"]
    numbers = [one["number"] for one in run_json("predict", head, targets)["images"]]
    assert numbers == pytest.approx([float(row["number"]) for row in rows], abs=1e-4)
    assert run("predict", head, targets).stdout.startswith("train/ant/00.png: ")
    assert "predicts numbers of the column size" in run("info", head).stdout
    assert "equal bit for bit" in run("train", "--again", head).stdout
    (picture,) = run_json("predict", head, targets.parent / "pictures/val/ant/01.png")["images"]
    assert picture["number"] == pytest.approx(numbers[12 + 1], abs=0.05)
    trained = run_json("train", targets, "--target", "size", "--set", "alpha=10", "--out", tmp_path / "b.head")
    assert trained["chosen"] == {"alpha": 10}
    assert "give one of them" in run("train", targets, "--target", "size", "--separator", ";", code=2).stderr
