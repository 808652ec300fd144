"""Tests of training on label sets."""

from __future__ import annotations

import csv
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from featstore.artifacts import open_head
from featstore.errors import DataError, UsageError
from featstore.heads import load_head
from featstore.pages.figures import write_figures
from featstore.pages.train import write_training_page
from featstore.stages.info import info
from featstore.stages.label import label
from featstore.stages.predict import predict
from featstore.stages.train import head_path, retrain, train, train_again
from featstore.store import FeatureStore
from featstore.store.splitting import split_store
from featstore.store.targets import Targets, Task
from tests.chain import make_store, names, write_coloured
from tests.page_reading import read

KEYS = names("", 20, ("ant", "bee", "cow"))


def tags_of(key):
    """Return the label set of a picture as text: its class, and also "warm" for red and green pictures."""
    kind = key.split("/")[0]
    return kind if kind == "bee" else f"{kind}; warm"


def pairs_of(key):
    """Return the label set of a picture as text; two pictures have each label of the class ant."""
    return f"pair {int(key[-6:-4]) // 2};" if key.startswith("ant") else "many;"


def write_table(path, **columns):
    """Write a table with a row for each of KEYS; ``columns``: a function from key to text for each column."""
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", *columns])
        writer.writerows([key, *(text(key) for text in columns.values())] for key in KEYS)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a column of label sets, in which one picture has no text and one has the empty set."""
    place = tmp_path_factory.mktemp("targets")
    made = make_store(write_coloured(place / "pictures", KEYS), place / "s")
    special = {KEYS[0]: "", KEYS[1]: ";"}
    table = write_table(
        place / "t.csv", tags=lambda key: special.get(key, tags_of(key)), plain=lambda key: "x", pairs=pairs_of
    )
    label(made, table)
    return made


@pytest.fixture(scope="module")
def trained(store):
    return train(store, labels="tags", separator=";", folds=3)


def test_train_learns_the_label_sets_of_a_column_and_reports_measures(store, trained):
    assert trained.path == str(head_path(store, "logreg", "tags"))
    assert trained.head.classes == ["ant", "bee", "cow", "warm"]
    assert trained.figures.estimates["mean_average_precision"].value > 0.95
    assert trained.figures.estimates["exact_match"].value > 0.8
    with pytest.raises(UsageError, match=r"predicts label sets, not classes; its figures are in \.figures"):
        _ = trained.report
    told = json.loads(json.dumps(trained.to_dict(), allow_nan=False))
    assert told["task"] == "label sets"
    assert [row["label"] for row in told["held_out"]["labels"]] == trained.head.classes


def test_missing_label_set_is_omitted_and_a_lone_separator_is_the_empty_set(store, trained):
    opened = FeatureStore.open(store)
    used = set(opened.keys[np.r_[trained.split.train, trained.split.test]])
    assert KEYS[0] not in used
    assert KEYS[1] in used
    assert any("left out: 1 picture without a label set in 'tags'" in note for note in trained.notes)
    assert trained.split.targets.values[opened.keys[:].index(KEYS[1])] == ()


@pytest.mark.parametrize(("separator", "empty"), [(" ", " "), ("\t", "\t"), (";", " ; ")])
def test_text_of_separators_alone_is_the_empty_set_and_a_blank_text_is_none(separator, empty):
    column = np.array([f" cat{separator}dog ", empty, "", None, "\n", "cat"], object)
    targets = Task("label sets", "tags", separator).read(SimpleNamespace(column={"tags": column}.get))
    assert targets.values.tolist() == [("cat", "dog"), (), None, None, None, ("cat",)]
    assert targets.left_out == [
        f"3 pictures without a label set in 'tags' (the text {separator!r} would be the empty set)"
    ]


def test_generated_split_leaves_two_training_pictures_of_each_label(store):
    split = split_store(FeatureStore.open(store), task=Task("label sets", "pairs", ";"), held_out=0.5)
    counts = Counter(name for value in split.targets.values[split.train] for name in value)
    assert len(counts) == 11
    assert min(counts.values()) == 2
    # Each picture with "both" also has a rarer label, so its stratum is another one; 0 and 1 are copies.
    sets = [("both", f"l{at // 2}") for at in range(6)] + [("many",)] * 30
    targets = Targets(Task("label sets", "tags", ";"), np.fromiter(sets, object, 36), [])
    rows, groups = np.arange(36), np.maximum(np.arange(36), 1)
    train, test = targets.with_two_to_train(rows, groups, np.r_[:6, 30:36])
    assert sorted([*train, *test]) == rows.tolist()
    assert test.tolist() == list(range(30, 36))
    train, test = targets.with_two_to_train(rows[4:], groups[4:], np.array([0, 30]))
    assert test.tolist() == [30]
    with pytest.raises(DataError, match="every picture is needed for training"):
        targets.with_two_to_train(rows[:6], groups[:6], np.array([5]))


def test_predictions_of_a_label_set_head_are_label_sets(store, trained):
    found = predict(trained.path, store)
    by_key = {one.key: one for one in found}
    right = [set(by_key[key].labels) == set(tags_of(key).split("; ")) for key in KEYS]
    assert np.mean(right) > 0.8
    one = by_key[KEYS[-1]]
    assert one.label == ";".join(one.labels)
    assert set(one.to_dict(found.classes)) == {"key", "labels", "probabilities"}
    frame = found.to_pandas()
    assert list(frame.columns) == ["key", "labels", *trained.head.classes, "reason", "message"]
    assert frame["labels"][len(KEYS) - 1] == one.labels


def test_train_again_and_update_work_for_a_head_of_label_sets(store, trained, tmp_path):
    assert train_again(trained.path).equal
    again = train(store, labels="tags", separator=";", folds=3, out=tmp_path / "a.head")
    updated = retrain(again.path)
    assert updated.head.task == "label sets"
    assert any("replaced the head that was there: logreg, C = " in note for note in updated.notes)


def test_perceptron_learns_label_sets_and_can_be_trained_again(store, tmp_path):
    options = {"labels": "tags", "separator": ";", "head": "mlp", "output": "sigmoid", "hidden": [16]}
    trained = train(store, **options, class_weight="balanced", out=tmp_path / "a.head")
    assert trained.head.classes == ["ant", "bee", "cow", "warm"]
    assert trained.figures.estimates["mean_average_precision"].value > 0.9
    found = {one.key: set(one.labels) for one in predict(trained.path, store)}
    assert np.mean([found[key] == set(tags_of(key).split("; ")) for key in KEYS]) > 0.7
    assert train_again(trained.path).equal
    assert any("mlp" in note for note in retrain(trained.path).notes)
    page = tmp_path / "a.html"
    assert write_training_page(trained, page) == []
    read(page)


def test_train_again_uses_the_label_sets_from_before_a_change(tmp_path):
    made = make_store(write_coloured(tmp_path / "pictures", KEYS), tmp_path / "s")
    label(made, write_table(tmp_path / "t.csv", tags=tags_of))
    first = train(made, labels="tags", separator=";", folds=3)
    label(
        made, write_table(tmp_path / "u.csv", tags=lambda key: "new; " + tags_of(key) if key > "bee" else tags_of(key))
    )
    assert train_again(first.path).equal
    assert retrain(first.path).head.classes == ["ant", "bee", "cow", "new", "warm"]


def test_train_splits_the_stores_own_labels_at_the_separator(store, tmp_path):
    made = make_store(write_coloured(tmp_path / "pictures", KEYS), tmp_path / "s")
    label(made, write_table(tmp_path / "t.csv", label=tags_of))
    assert train(made, separator=";", folds=3).head.classes == ["ant", "bee", "cow", "warm"]


def test_commands_for_class_heads_refuse_a_label_set_head_in_one_line(trained):
    with pytest.raises(UsageError, match="predicts label sets; this needs a head of classes") as error:
        open_head(trained.path)
    assert "\n" not in str(error.value)


def test_info_on_a_label_set_head_names_its_column_and_separator(trained):
    told = info(trained.path)
    assert told["task"] == "label sets"
    assert told["target"] == {"kind": "label sets", "column": "tags", "separator": ";"}


def test_train_needs_force_to_replace_a_head_of_another_target(store, trained, tmp_path):
    path = tmp_path / "a.head"
    train(store, folds=3, out=path)
    with pytest.raises(UsageError, match="another target than is asked for"):
        train(store, labels="tags", separator=";", out=path)
    train(store, labels="tags", separator=";", folds=3, out=path, force=True)
    assert load_head(path).task == "label sets"


def test_training_page_and_figures_show_label_sets(trained, tmp_path):
    write_training_page(trained, tmp_path / "page.html")
    page = read(tmp_path / "page.html")
    assert "mean average precision" in (tmp_path / "page.html").read_text()
    assert page is not None
    assert [path.name for path in write_figures(trained, tmp_path / "page.html")] == ["page.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "tags"}, "say with separator what stands between two labels"),
        (
            {"labels": "tags", "separator": "|"},
            "the separator '|' is in no text of the column 'tags', such as 'ant; warm'",
        ),
        ({"labels": "none", "separator": ";"}, "no column 'none'"),
        ({"separator": ""}, "separator must be a text that is not empty"),
        ({"separator": ";"}, "is in no text of the column 'label'"),
        (
            {"labels": "tags", "separator": ";", "head": "knn"},
            "label sets are learnt by the head logreg or mlp, not by knn",
        ),
        ({"labels": "tags", "separator": ";", "head": "mlp", "balance": "sampler"}, "a label set is no class"),
        ({"labels": "tags", "separator": ";", "class_weight": "balanced"}, "without class weights"),
    ],
)
def test_invalid_options_of_train_on_label_sets_are_refused_in_one_line(store, options, message):
    with pytest.raises(UsageError) as error:
        train(store, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_train_refuses_a_label_that_occurs_only_in_the_held_out_split(tmp_path):
    made = make_store(write_coloured(tmp_path / "pictures", KEYS), tmp_path / "s")
    split = lambda key: "test" if key.endswith(("0.png", "1.png")) else "train"  # noqa: E731
    tags = lambda key: tags_of(key) + ("; last" if split(key) == "test" else "")  # noqa: E731
    label(made, write_table(tmp_path / "t.csv", tags=tags, split=split))
    with pytest.raises(UsageError, match="the held-out pictures have last, which no training picture has"):
        train(made, labels="tags", separator=";")


def test_head_with_a_forged_task_in_its_record_is_reported_as_damaged(trained, tmp_path):
    from dataclasses import replace

    from featstore.errors import DamagedError
    from featstore.heads import save_head

    head = load_head(trained.path)
    for task in (
        {"kind": "label sets"},
        {"kind": "numbers"},
        {"kind": "x", "column": "tags", "separator": ";"},
        [],
        3,
        None,
        "label sets",
    ):
        forged = replace(head, meta={**head.meta, "request": {**head.meta["request"], "task": task}})
        save_head(tmp_path / "a.head", forged)
        with pytest.raises(DamagedError, match="task"):
            train_again(tmp_path / "a.head")


@pytest.mark.parametrize("forged", [{"kind": "numbers"}, {"kind": "label sets", "column": "tags"}, {"kind": []}, 3])
def test_recorded_task_without_its_fields_is_a_value_error(forged):
    with pytest.raises(ValueError, match="no task"):
        Task.recorded(forged)


def test_forged_description_of_a_replaced_head_does_not_stop_train(store, trained, tmp_path):
    from dataclasses import replace

    from featstore.heads import save_head

    head = load_head(trained.path)
    save_head(tmp_path / "a.head", replace(head, meta={**head.meta, "chosen": {"C": "much"}}))
    again = train(store, out=tmp_path / "a.head", labels="tags", separator=";", force=True)
    assert "replaced a head that did not tell how good it was" in again.notes
