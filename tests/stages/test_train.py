from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featstore.errors import DamagedError, IdentityError, UsageError
from featstore.heads import load_head
from featstore.heads.trainer import HEADS
from featstore.stages.extract import extract
from featstore.stages.info import info
from featstore.stages.label import label
from featstore.stages.predict import predict
from featstore.stages.train import at_the_end, head_path, retrain, train, train_again
from featstore.stages.verify import verify
from featstore.store import FeatureStore, tables
from featstore.store.labels import set_columns
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone


def folds(kind, count):
    """Return the option of ``train`` for ``count`` folds; no option for a ``kind`` of head without folds."""
    return {"folds": count} if HEADS[kind].folded else {}


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_saved_head_predicts_the_same_as_the_trained_head(chain, tmp_path, kind):
    trained = train(chain.store, head=kind, out=tmp_path / "a.head", **folds(kind, 3))
    loaded = load_head(tmp_path / "a.head")
    store = FeatureStore.open(chain.store)
    vectors = store.features(rows=trained.split.test)
    np.testing.assert_array_equal(loaded.predict_proba(vectors), trained.probabilities)
    assert loaded.classes == trained.head.classes == ["ant", "bee"]
    assert trained.report.rows == 10
    # The two classes are red and blue pictures, which every kind of head can separate.
    assert trained.report.accuracy.value >= 0.9
    assert loaded.fingerprint == store.fingerprint
    told = json.loads(json.dumps(trained.to_dict(), allow_nan=False))
    assert told["split"]["train"] == "train"
    assert told["split"]["test"] == "val"
    assert loaded.meta["report"]["confusion"] == told["held_out"]["confusion"]
    assert (told["calibration"] is None) == (kind == "knn")


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_predict_refuses_features_of_other_weights(chain, tmp_path, kind):
    trained = train(chain.store, head=kind, out=tmp_path / "a.head", **folds(kind, 3))
    other = make_store(chain.folder, tmp_path / "other", backbone=tiny_backbone(1))
    with pytest.raises(IdentityError, match="weights") as error:
        predict(trained.path, other)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_train_refuses_labels_of_only_one_class(tmp_path, kind):
    store = make_store(write_coloured(tmp_path / "p", names("", 4, ("ant",))), tmp_path / "s")
    with pytest.raises(UsageError, match="one class only") as error:
        train(store, head=kind)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_train_refuses_a_class_that_occurs_only_in_the_held_out_split(tmp_path, kind):
    folder = write_coloured(tmp_path / "p", names("train", 4) + names("val", 2, ("ant", "bee", "cow")))
    store = make_store(folder, tmp_path / "s")
    with pytest.raises(UsageError, match=r"'val' has pictures of cow, which the split 'train' lacks"):
        train(store, head=kind)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_train_refuses_nan_features(chain, monkeypatch, kind):
    # Put NaN into the vectors when the store is read: a store never contains NaN, because extraction rejects NaN.
    def with_nan(self, *_, **__):
        vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
        vectors[3, 2] = np.nan
        return vectors

    monkeypatch.setattr(FeatureStore, "features", with_nan)
    with pytest.raises(UsageError, match="NaN"):
        train(chain.store, head=kind, **folds(kind, 3))


def test_train_notes_report_a_class_without_held_out_pictures(tmp_path):
    folder = write_coloured(tmp_path / "p", names("train", 6, ("ant", "bee", "cow")) + names("val", 3))
    trained = train(make_store(folder, tmp_path / "s"), folds=3)
    assert trained.report.missing == ["cow"]
    assert any("no pictures of cow" in note for note in trained.notes)


def test_error_for_a_class_with_one_picture_says_how_to_exclude_the_class(tmp_path):
    folder = write_coloured(tmp_path / "p", [*names("", 6), "cow/0.png"])
    store = make_store(folder, tmp_path / "s")
    with pytest.raises(UsageError, match=r"1 class has only one picture, .*: cow; .*: featstore label .*/s TABLE\)"):
        train(store)
    (tmp_path / "t.csv").write_text("key,label\ncow/0.png,\n")
    label(store, tmp_path / "t.csv")
    assert train(store, folds=2).head.classes == ["ant", "bee"]


def test_train_has_a_note_if_a_parameter_is_chosen_at_the_end_of_its_grid(chain, tmp_path):
    trained = train(chain.store, folds=3, out=tmp_path / "a.head", Cs=(1e-4, 1e-3))
    C = trained.chosen["C"]
    which, beyond = ("smallest", "1e-05") if C == 1e-4 else ("largest", "0.01")
    note = f"C = {C:g} is the {which} of the values that were tried (0.0001 to 0.001): one beyond it may be better"
    assert f"{note}; try --C {beyond}" in trained.notes
    assert not at_the_end(train(chain.store, folds=3, out=tmp_path / "b.head", C=0.1).head)
    middle = {"chosen": {"C": 2.0}, "cross_validation": {"param_C": [1.0, 2.0, 3.0]}}
    assert not at_the_end(replace(trained.head, meta=middle))


def test_error_for_a_misspelt_option_suggests_the_right_name(chain, tmp_path):
    with pytest.raises(
        TypeError, match=r"train\(\) got an unexpected keyword argument 'scorring'.*did you mean 'scoring'"
    ):
        train(chain.store, out=tmp_path / "a.head", scorring="accuracy")
    with pytest.raises(TypeError, match=r"extract\(\) got an .* 'bacth'; did you mean 'batch'"):
        extract(chain.folder, tmp_path / "s", bacth=3)


def test_train_omits_and_counts_unlabelled_and_pending_pictures(tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 8))
    store = make_store(folder, tmp_path / "s", unit_rows=4)
    set_columns(store, [b"ant/00.png", b"bee/03.png"], {tables.LABEL: [None, None]})
    write_coloured(folder, ["bee/90.png", "bee/91.png"], seed=9)
    # Extract only the first of five units; the fifth, which has the new pictures, stays pending.
    make_store(folder, store, unit_rows=4, units=(0, 5))
    counts = FeatureStore.open(store).counts
    assert (counts.vectors, counts.pending) == (16, 2)
    trained = train(store, folds=2)
    assert trained.split.unlabelled == 2
    assert any("2 pictures without a label" in note for note in trained.notes)
    assert any("2 of 18 pictures are pending" in note for note in trained.notes)
    assert len(trained.split.train) + len(trained.split.test) == 14


def test_train_refuses_a_store_without_labels(tmp_path):
    store = make_store(write_coloured(tmp_path / "p", names("", 3)), tmp_path / "s")
    keys = list(FeatureStore.open(store)._key_bytes(None))
    set_columns(store, keys, {tables.LABEL: [None] * len(keys)})
    with pytest.raises(UsageError, match="featstore label"):
        train(store)


def test_train_writes_the_head_next_to_the_store_or_refuses_the_path(chain, tmp_path):
    assert chain.trained.path == str(head_path(chain.store, "logreg"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no head"):
        train(chain.store, out=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="is a folder"):
        train(chain.store, out=tmp_path)
    with pytest.raises(UsageError, match="there is no head"):
        train(chain.store, head="perceptron")


def test_training_twice_with_equal_settings_gives_equal_heads(chain, tmp_path):
    first = train(chain.store, folds=3, out=tmp_path / "1.head")
    second = train(chain.store, folds=3, out=tmp_path / "2.head")
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert first.chosen == second.chosen


def test_predict_rejects_a_damaged_head(chain, tmp_path):
    copy = tmp_path / "a.head"
    shutil.copy(chain.trained.path, copy)
    data = bytearray(copy.read_bytes())
    data[-100] ^= 1
    copy.write_bytes(data)
    with pytest.raises(DamagedError):
        predict(copy, chain.store)


def test_train_compares_new_and_replaced_head_on_the_same_pictures(chain, tmp_path):
    path = tmp_path / "a.head"
    first = train(chain.store, C=1e-4, folds=3, out=path)
    assert first.replaced is None
    again = train(chain.store, head="knn", folds=3, out=path)
    store = FeatureStore.open(chain.store)
    truth = store.labels[again.split.test].astype(str)
    was, right = (np.array(["ant", "bee"])[one.probabilities.argmax(axis=1)] == truth for one in (first, again))
    assert (again.replaced.better, again.replaced.worse) == ((right & ~was).sum(), (was & ~right).sum())
    assert again.replaced.accuracy == first.report.accuracy.value
    assert 0 < again.replaced.p_value <= 1
    assert any("replaced the head that was there: logreg, C = 0.0001, accuracy" in note for note in again.notes)
    assert load_head(path).kind == "knn"
    other = train(chain.store, folds=3, out=path, train_split="train", test_split="val")
    assert other.replaced.kind == "knn"
    told = json.loads(json.dumps(other.to_dict(), allow_nan=False))["replaced"]
    assert told["rows"] == 10


def test_heads_with_different_held_out_pictures_are_not_compared(tmp_path):
    store = make_store(write_coloured(tmp_path / "p", names("", 10)), tmp_path / "s")
    train(store, folds=2, seed=1)
    replaced = train(store, folds=2, seed=2).replaced
    assert (replaced.better, replaced.worse, replaced.p_value) == (None, None, None)
    assert "of its own, so the two figures are not to be compared" in replaced.text()


def test_train_needs_force_to_replace_a_head_of_other_classes_or_store(chain, tmp_path):
    folder = write_coloured(tmp_path / "p", names("", 6))
    store = make_store(folder, tmp_path / "s")
    path = train(store, folds=2).path
    before = (tmp_path / "s.logreg.head").read_bytes()
    write_coloured(folder, names("", 6, ("cow",)), seed=7)
    make_store(folder, store)
    with pytest.raises(
        UsageError, match=r"its 2 classes, where there are 3 now \(new: cow\); name another file with --out"
    ):
        train(store, folds=2)
    with pytest.raises(UsageError, match=r"features of another store \(.*/s\).*--force"):
        train(chain.store, folds=2, out=path)
    assert (tmp_path / "s.logreg.head").read_bytes() == before
    trained = train(store, folds=2, force=True)
    assert load_head(path).classes == ["ant", "bee", "cow"]
    assert trained.replaced.better is None
    assert train(store, folds=2, out=tmp_path / "other.head").replaced is None


def test_train_replaces_a_damaged_head_and_reports_it(chain, tmp_path):
    path = tmp_path / "a.head"
    data = bytearray(Path(chain.trained.path).read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    trained = train(chain.store, folds=3, out=path)
    assert trained.replaced is None
    assert any("replaced a head that could not be read" in note for note in trained.notes)
    assert load_head(path).classes == ["ant", "bee"]


def test_train_refuses_a_too_long_file_name_before_training(chain, tmp_path, monkeypatch):
    monkeypatch.setattr("featstore.stages.train.stage.split_store", lambda *_, **__: pytest.fail("worked"))
    with pytest.raises(UsageError, match="its name has 256 bytes, where 255 fit"):
        train(chain.store, out=tmp_path / ("x" * 256))


def test_head_file_name_of_250_bytes_is_accepted(chain, tmp_path):
    assert train(chain.store, folds=3, C=1.0, out=tmp_path / ("x" * 250)).path


LDA = "sklearn.discriminant_analysis:LinearDiscriminantAnalysis"
TREE = "sklearn.tree:DecisionTreeClassifier"


@pytest.fixture(scope="module")
def named(chain, tmp_path_factory):
    """Heads of two scikit-learn classes, trained on the store of ``chain``, by class name."""
    pytest.importorskip("skops")
    place = tmp_path_factory.mktemp("named")
    return {kind: train(chain.store, head=kind, folds=3, out=place / f"{kind[-4:]}.head") for kind in (LDA, TREE)}


def test_scikit_learn_heads_can_predict_and_be_trained_again_and_updated(chain, named):
    trained = named[LDA]
    assert trained.report.accuracy.value >= 0.9
    assert trained.calibration["scale"] > 0
    assert not any("--trust" in note for note in trained.notes)
    assert trained.head.fingerprint == FeatureStore.open(chain.store).fingerprint
    found = {one.key: one.label for one in predict(trained.path, chain.store)}
    assert sum(key.split("/")[1] == label for key, label in found.items()) >= 28
    with pytest.raises(UsageError, match=f"imported only where you name it.*--head {LDA}"):
        train_again(trained.path)
    assert train_again(trained.path, kind=LDA).equal
    with pytest.raises(UsageError, match="not of"):
        train_again(trained.path, kind=TREE)
    with pytest.raises(UsageError, match="imported only where you name it"):
        retrain(trained.path)
    assert retrain(trained.path, kind=LDA).path == trained.path


def test_head_with_types_outside_the_option_trust_is_refused(chain, named):
    trained = named[TREE]
    assert trained.notes[-1].endswith("whoever uses it adds --trust sklearn.tree._tree.Tree")
    with pytest.raises(UsageError, match="--trust sklearn.tree._tree.Tree"):
        predict(trained.path, chain.store)
    assert len(list(predict(trained.path, chain.store, trust=["sklearn.tree._tree.Tree"]))) == 30
    # info and verify need no option trust, because they create no object from the head file.
    assert info(trained.path)["trust"] == ["sklearn.tree._tree.Tree"]
    assert not verify(trained.path).problems


def test_train_compares_new_and_old_scikit_learn_heads_only_of_equal_class(chain, named, tmp_path):
    shutil.copy(named[TREE].path, tmp_path / "a.head")
    assert train(chain.store, head=TREE, folds=3, out=tmp_path / "a.head").replaced.better == 0
    replaced = train(chain.store, folds=3, out=tmp_path / "a.head")
    assert replaced.replaced.better is None
    assert any("not compared picture by picture" in note for note in replaced.notes)


def test_head_file_is_named_after_its_scikit_learn_class_by_default(tmp_path):
    assert head_path(tmp_path / "s", LDA) == tmp_path / "s.LinearDiscriminantAnalysis.head"
