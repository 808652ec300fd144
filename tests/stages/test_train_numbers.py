"""Tests of training on numbers: train --target."""

from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.errors import FeatstoreError, UsageError
from featstore.pages.figures import write_figures
from featstore.pages.train import write_training_page
from featstore.stages.export import export
from featstore.stages.info import info
from featstore.stages.label import label
from featstore.stages.predict import predict
from featstore.stages.train import head_path, retrain, train, train_again
from tests.chain import make_store, names, write_coloured
from tests.page_reading import read
from tests.stages.test_train_targets import write_table

KEYS = names("", 20, ("ant", "bee", "cow"))
AMOUNT = {"ant": 1.0, "bee": 2.0, "cow": 4.0}


def amount_of(key):
    """Return the number of a picture: that of its class, and a little more for each further picture of the class."""
    return AMOUNT[key.split("/")[0]] + 0.01 * int(key[-6:-4])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with three columns: "amount"; "odd", which also holds texts and an infinity; "same", which is constant."""
    place = tmp_path_factory.mktemp("numbers")
    made = make_store(write_coloured(place / "pictures", KEYS), place / "s")
    odd = {KEYS[0]: "", KEYS[1]: "n/a", KEYS[2]: "inf", KEYS[3]: "nan", KEYS[4]: "1_0"}
    columns = {
        "amount": lambda key: f"{amount_of(key):.2f}",
        "odd": lambda key: odd.get(key, f"{amount_of(key):.2f}"),
        "same": lambda key: "7",
        "words": lambda key: "many",
    }
    label(made, write_table(place / "t.csv", **columns))
    return made


@pytest.fixture(scope="module")
def trained(store):
    return train(store, target="amount", folds=3)


def test_train_learns_the_numbers_of_a_column_and_reports_r2(store, trained):
    assert trained.path == str(head_path(store, "ridge", "amount"))
    assert trained.head.kind == "ridge"
    assert trained.figures.estimates["r2"].value > 0.9
    told = json.loads(json.dumps(trained.to_dict(), allow_nan=False))
    assert told["task"] == "numbers"
    assert told["held_out"]["estimates"]["mae"]["low"] < told["held_out"]["estimates"]["mae"]["high"]


def test_train_counts_and_names_values_that_are_no_numbers(store, tmp_path):
    trained = train(store, target="odd", folds=3, out=tmp_path / "a.head")
    assert len(trained.split.train) + len(trained.split.test) == len(KEYS) - 5
    notes = "\n".join(trained.notes)
    assert "left out: 4 pictures whose 'odd' is no finite number ('1_0', 'inf', 'n/a', 'nan')" in notes
    assert "left out: 1 picture without a number in 'odd'" in notes


def test_predictions_of_a_ridge_head_are_numbers(store, trained):
    found = predict(trained.path, store)
    numbers = {one.key: one.number for one in found}
    assert np.corrcoef([numbers[key] for key in KEYS], [amount_of(key) for key in KEYS])[0, 1] > 0.95
    one = next(iter(found))
    assert one.to_dict(found.classes) == {"key": one.key, "number": one.number}
    assert not one.failed
    assert list(found.to_pandas().columns) == ["key", "number", "reason", "message"]


def test_train_again_and_update_work_for_a_head_of_numbers(store, trained, tmp_path):
    assert train_again(trained.path).equal
    train(store, target="amount", folds=3, out=tmp_path / "a.head")
    updated = retrain(tmp_path / "a.head")
    assert updated.head.task == "numbers"
    assert any("replaced the head that was there: ridge, alpha = " in note for note in updated.notes)


def test_train_again_uses_the_numbers_from_before_a_change(tmp_path):
    made = make_store(write_coloured(tmp_path / "pictures", KEYS), tmp_path / "s")
    label(made, write_table(tmp_path / "t.csv", amount=lambda key: f"{amount_of(key):.2f}"))
    first = train(made, target="amount", folds=3)
    label(made, write_table(tmp_path / "u.csv", amount=lambda key: f"{10 * amount_of(key):.2f}"))
    assert train_again(first.path).equal
    assert retrain(first.path).figures.mean > 5 * first.figures.mean


def test_info_page_figures_and_export_work_for_a_head_of_numbers(trained, tmp_path):
    told = info(trained.path)
    assert (told["task"], told["classes"]) == ("numbers", [])
    assert told["target"]["column"] == "amount"
    write_training_page(trained, tmp_path / "page.html")
    read(tmp_path / "page.html")
    assert [path.name for path in write_figures(trained, tmp_path / "page.html")] == ["page.json"]
    pytest.importorskip("onnxruntime")
    made = export(trained.path, features_only=True, out=tmp_path / "a.onnx")
    assert made.greatest_difference < 1e-4
    assert "numbers differ from featstore's" in made.text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "none"}, "no column 'none'"),
        ({"target": "same"}, "the target is 7 for every row"),
        (
            {"target": "words"},
            "nothing can be learnt from the column 'words'; 60 pictures whose 'words' is no finite number",
        ),
        ({"target": "amount", "separator": ";"}, "give one of them"),
        ({"target": "amount", "head": "knn"}, "numbers are learnt by the head ridge, not by knn"),
        ({"target": "amount", "C": 1.0}, "ridge has no C"),
        ({"target": "amount", "class_weight": "balanced"}, "without class weights"),
        ({"head": "ridge"}, "ridge predicts numbers: name their column with target"),
        ({"target": "amount", "test_split": "val"}, "no pictures of split"),
    ],
)
def test_invalid_options_of_train_on_numbers_are_refused_in_one_line(store, options, message):
    with pytest.raises((UsageError, FeatstoreError)) as error:
        train(store, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
