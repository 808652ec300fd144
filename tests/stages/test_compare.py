"""The comparison of transfer methods, with small pictures and random weights."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from featstore.errors import DamagedError, DataError, UsageError
from featstore.stages.compare import METHODS, compare
from featstore.stages.compare.runs import gradual_steps
from featstore.stages.label import label
from featstore.stages.train import train
from featstore.store import FeatureStore
from tests.chain import COLOURS, make_store, names, write_coloured
from tests.stages.finetuning import NETWORK, SIDE, write_store

pytestmark = pytest.mark.slow

FAST = {"batch": 8, "workers": 1, "weights": NETWORK["weights"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of 16 pictures to train on and 8 held out; tests only read it."""
    return write_store(tmp_path_factory.mktemp("comparing"))


@pytest.fixture(scope="module")
def done(store, tmp_path_factory):
    """The report of all methods with two seeds and two epochs."""
    return compared(store, tmp_path_factory.mktemp("compared") / "c", methods=tuple(METHODS))


def compared(store, out, **options):
    """Compare on ``store`` with few epochs; by default the last block alone with the frozen head."""
    return compare(transfer=store, out=out, **{"methods": ("last-block",), "seeds": 2, "epochs": 2, **FAST, **options})


def runs_in(folder):
    """Return the contents of the files of runs without their times, by name."""
    found = {}
    for path in sorted(Path(folder).glob("*-*.json")):
        told = json.loads(path.read_text())
        found[path.name] = {name: value for name, value in told.items() if name not in ("seconds", "checksum")}
    return found


def test_every_method_is_judged_on_the_same_pictures_with_every_seed(store, done):
    assert [one.name for one in done.results] == list(METHODS)
    assert (done.finished, done.seeds, done.learnt, done.held_out) == (12, [0, 1], 16, 8)
    runs = runs_in(done.path)
    assert len(runs) == 12
    assert len({tuple(run["rows"]) for run in runs.values()}) == 1
    assert sorted(path.name for path in Path(done.path).iterdir()) == sorted([*runs, "plan.json"])


def test_comparison_refuses_a_class_without_held_out_pictures_before_the_first_run(tmp_path):
    pictures = [*names("train", 2, tuple(COLOURS)), *names("val", 2)]
    make_store(write_coloured(tmp_path / "pictures", pictures), tmp_path / "s")
    with pytest.raises(DataError, match="no pictures of cow"):
        compared(tmp_path / "s", tmp_path / "c")
    assert runs_in(tmp_path / "c") == {}


def test_figures_of_the_frozen_heads_are_those_of_train(store, done, tmp_path):
    results = {one.name: one for one in done.results}
    for name, head in (("linear", "logreg"), ("mlp", "mlp")):
        accuracies = [
            train(store, head=head, out=tmp_path / f"{head}{s}", seed=s).report.accuracy.value for s in (0, 1)
        ]
        assert list(results[name].by_seed.values()) == accuracies
        assert results[name].figures["accuracy"] == pytest.approx(np.mean(accuracies))
        assert results[name].curves == {}
    assert results["linear"].trained == 512 + 1
    assert results["linear"].differences == {}


def test_methods_train_as_many_layers_as_they_say(store, done):
    trained = {one.name: one.trained for one in done.results}
    assert trained["linear"] < trained["last-block"] < trained["gradual"] < trained["all"] == trained["scratch"]
    assert gradual_steps(FeatureStore.open(store), 6) == (("features.12", 1), ("features.11", 3), ("features.10", 5))
    assert gradual_steps(FeatureStore.open(store), 2) == (("features.12", 1), ("features.11", 2))


def test_curves_start_with_the_frozen_head(done):
    results = {one.name: one for one in done.results}
    for name in ("last-block", "gradual", "all"):
        curve = results[name].curves["accuracy"]
        assert [epoch for epoch, _ in curve] == [0, 1, 2]
        assert curve[0][1] == results["linear"].figures["accuracy"]
        assert curve[-1][1] == pytest.approx(results[name].figures["accuracy"])


def test_difference_is_measurable_only_if_its_interval_leaves_out_0(done):
    for one in done.results:
        for measure, difference in one.differences.items():
            assert difference.difference == pytest.approx(one.figures[measure] - done.results[1].figures[measure])
            is_measurable = not difference.low <= 0 <= difference.high
            assert (difference.verdict != "no measurable difference") == is_measurable
            assert one.against(measure) == (difference.points(), difference.verdict)


def test_finished_runs_are_not_repeated_and_more_seeds_add_to_them(store, tmp_path):
    first = compared(store, tmp_path / "c", seeds=1, epochs=1)
    assert any("one seed" in note for note in first.notes)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*-0.json")}
    lines = []
    second = compared(store, tmp_path / "c", seeds=2, epochs=1, progress=lambda event: lines.append(event.text))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c").glob("*-0.json")} == before
    told = [line.split(": accuracy")[0] for line in lines if line]
    assert told == ["2 of 4 runs are finished already", "run 3 of 4: linear, seed 1", "run 4 of 4: last-block, seed 1"]
    assert second.seeds == [0, 1]


def test_plan_without_runs_is_replaced(store, tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        compared(tmp_path / "nowhere", tmp_path / "c")
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["plan.json"]
    stop = threading.Event()
    stop.set()
    assert compared(store, tmp_path / "c", stop=stop).stopped


def test_leftovers_of_a_finished_run_are_removed(store, done):
    left = [Path(done.path) / name for name in ("all-0", "all-0.cache", "all-0.run")]
    for path in left:
        path.mkdir()
    compared(store, done.path, methods=tuple(METHODS))
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("at", ["run 1 of 4", "last-block, seed 0: epoch 1 of 2"])
def test_stopped_comparison_goes_on_to_the_same_runs(store, tmp_path, at):
    stop = threading.Event()

    def tell(event):
        if at in event.text or (event.progress and at in event.progress.note):
            stop.set()

    report = compared(store, tmp_path / "c", progress=tell, stop=stop)
    assert report.stopped
    assert (report.finished, report.planned) == (1, 4)
    assert list(runs_in(tmp_path / "c")) == ["linear-0.json"]
    compared(store, tmp_path / "c")
    compared(store, tmp_path / "whole")
    assert runs_in(tmp_path / "c") == runs_in(tmp_path / "whole")


def test_runs_are_repeated_after_labels_changed(tmp_path):
    store = write_store(tmp_path, 4, 2)
    compared(store, tmp_path / "c", seeds=1, epochs=1)
    keys = FeatureStore.open(store).keys
    (tmp_path / "labels.csv").write_text(
        "key,label\n" + "".join(f"{key},{'wasp' if 'bee' in key else 'ant'}\n" for key in keys)
    )
    label(store, tmp_path / "labels.csv")
    report = compared(store, tmp_path / "c", seeds=1, epochs=1)
    assert report.classes == ["ant", "wasp"]
    assert "repeated: 2 runs of another state of the store" in report.notes


def test_run_during_which_labels_changed_is_not_kept(tmp_path):
    store = write_store(tmp_path, 4, 2)
    relabel = tmp_path / "labels.csv"
    keys = FeatureStore.open(store).keys
    relabel.write_text("key,label\n" + "".join(f"{key},{'wasp' if 'bee' in key else 'ant'}\n" for key in keys))

    def tell(event):
        if event.progress and "last-block" in event.progress.note and relabel.exists():
            label(store, relabel)
            relabel.unlink()

    with pytest.raises(UsageError, match="its pictures or labels changed during the comparison"):
        compared(store, tmp_path / "c", seeds=1, epochs=1, progress=tell)
    assert list(runs_in(tmp_path / "c")) == ["linear-0.json"]
    assert compared(store, tmp_path / "c", seeds=1, epochs=1).classes == ["ant", "wasp"]


def test_interrupted_run_begins_anew_after_labels_changed(tmp_path):
    store = write_store(tmp_path, 4, 2)
    stop = threading.Event()

    def tell(event):
        if event.progress and "last-block, seed 0: epoch 1 of 2" in event.progress.note:
            stop.set()

    assert compared(store, tmp_path / "c", seeds=1, progress=tell, stop=stop).stopped
    keys = FeatureStore.open(store).keys
    (tmp_path / "labels.csv").write_text(
        "key,label\n" + "".join(f"{key},{'wasp' if 'bee' in key else 'ant'}\n" for key in keys)
    )
    label(store, tmp_path / "labels.csv")
    assert compared(store, tmp_path / "c", seeds=1).classes == ["ant", "wasp"]


def test_source_of_pictures_is_extracted_into_the_folder(store, tmp_path):
    report = compared(store.parent / "pictures", tmp_path / "c", seeds=1, epochs=1, size=SIDE, **NETWORK)
    assert report.store == str(tmp_path / "c" / "features")
    assert report.held_out == 8


def test_store_without_splits_is_split_by_the_seed_for_all_methods(tmp_path):
    store = write_store(tmp_path, 6, 2)
    keys = FeatureStore.open(store).keys
    (tmp_path / "splits.csv").write_text("key,split\n" + "".join(f"{key},\n" for key in keys))
    label(store, tmp_path / "splits.csv")
    report = compared(store, tmp_path / "c", epochs=1)
    runs = runs_in(tmp_path / "c")
    assert runs["linear-0.json"]["rows"] == runs["last-block-0.json"]["rows"] != runs["linear-1.json"]["rows"]
    assert not report.stopped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("last-blok",)}, "did you mean 'last-block'"),
        ({"methods": ("linear",)}, "at least one method to compare"),
        ({"seeds": 0}, "seeds: 0 is not"),
        ({"epochs": 0}, "epochs: 0 is not"),
        ({"size": 64}, "leave size out"),
    ],
)
def test_wrong_request_is_refused(store, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        compared(store, tmp_path / "c", **options)


def test_folder_of_other_options_or_files_is_left_alone(store, tmp_path):
    compared(store, tmp_path / "c", seeds=1, epochs=1)
    before = runs_in(tmp_path / "c")
    with pytest.raises(UsageError, match="holds runs with epochs 1, not 2"):
        compared(store, tmp_path / "c")
    assert runs_in(tmp_path / "c") == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="holds other files"):
        compared(store, tmp_path / "notes")
    with pytest.raises(UsageError, match="is a file"):
        compared(store, tmp_path / "notes" / "a.txt")


def test_damaged_run_is_named(store, tmp_path):
    compared(store, tmp_path / "c", seeds=1, epochs=1)
    path = tmp_path / "c" / "linear-0.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DamagedError, match="linear-0.json"):
        compared(store, tmp_path / "c", seeds=1, epochs=1)
