from __future__ import annotations

import shutil

import numpy as np
import pytest

from featstore.errors import UsageError
from featstore.stages.label import label
from featstore.store import FeatureStore
from featstore.store.splitting import groups_of_equal_bytes, split_store
from featstore.store.targets import Task
from tests.chain import make_store, names, write_coloured


def keys_of(store, rows):
    return [key.decode() for key in store._key_bytes(rows)]


@pytest.fixture(scope="module")
def unsplit(tmp_path_factory):
    """Return a store of pictures without given splits; four of its pictures have equal bytes."""
    place = tmp_path_factory.mktemp("unsplit")
    folder = write_coloured(place / "p", names("", 12))
    for number in range(3):
        shutil.copy(folder / "ant/00.png", folder / f"ant/copy{number}.png")
    return FeatureStore.open(make_store(folder, place / "s"))


def test_split_store_recognises_given_splits_by_name(chain):
    split = split_store(FeatureStore.open(chain.store))
    assert (split.kind, split.names) == ("given", ("train", "val"))
    assert (len(split.train), len(split.test), split.shared, split.notes()) == (
        20,
        10,
        0,
        ["only 10 pictures are held out: the figures are rough"],
    )


def test_split_store_accepts_names_for_the_training_and_the_test_split(chain):
    store = FeatureStore.open(chain.store)
    split = split_store(store, train_split="val", test_split="train")
    assert (len(split.train), len(split.test)) == (10, 20)
    split = split_store(store, test_split="train")
    assert split.names == ("all but train", "train")
    with pytest.raises(UsageError, match="train, val"):
        split_store(store, train_split="training")
    with pytest.raises(UsageError, match="at once"):
        split_store(store, train_split="train", test_split="train")


def test_generated_split_is_stratified_and_keeps_equal_pictures_together(unsplit):
    for seed in range(10):
        split = split_store(unsplit, held_out=0.25, seed=seed)
        train, test = keys_of(unsplit, split.train), keys_of(unsplit, split.test)
        assert sorted(train + test) == sorted(unsplit.keys)
        same = {"ant/00.png", "ant/copy0.png", "ant/copy1.png", "ant/copy2.png"}
        assert same <= set(train) or same <= set(test)
        assert {key.split("/")[0] for key in test} == {"ant", "bee"}
        assert 5 <= len(test) <= 9


def test_generated_split_depends_only_on_the_seed(unsplit):
    one, other = split_store(unsplit, seed=3), split_store(unsplit, seed=3)
    assert one.test.tolist() == other.test.tolist()
    assert one.test.tolist() != split_store(unsplit, seed=4).test.tolist()
    assert one.to_dict()["seed"] == 3


def test_split_store_reports_equal_pictures_in_two_given_splits(tmp_path):
    folder = write_coloured(tmp_path / "p", names("train", 4) + names("val", 3))
    shutil.copy(folder / "train/ant/01.png", folder / "val/ant/x.png")
    split = split_store(FeatureStore.open(make_store(folder, tmp_path / "s")))
    assert split.shared == 1
    assert any("same bytes" in note for note in split.notes())


def test_note_names_classes_of_pictures_without_a_split(tmp_path):
    place = make_store(write_coloured(tmp_path / "p", names("train", 3) + names("val", 3)), tmp_path / "s")
    make_store(write_coloured(tmp_path / "more", names("", 2, ("ant", "cow")), seed=1), place)
    store = FeatureStore.open(place)
    note = "left out: 4 pictures with a label but without a split, so the head does not know cow"
    split = split_store(store)
    assert (split.unsplit, split.unknown) == (4, ("cow",))
    assert note in split.notes()
    assert split.to_dict()["unknown_classes"] == ["cow"]
    assert note in split_store(store, train_split="train", test_split="val").notes()
    rows = (f"{key},{'a;new' if key.startswith('cow') else 'a;b'},{key[-5]}\n" for key in store.keys)
    (tmp_path / "t.csv").write_text("path,tags,age\n" + "".join(rows))
    label(place, tmp_path / "t.csv")
    store = FeatureStore.open(place)
    assert split_store(store, task=Task("label sets", "tags", ";")).unknown == ("new",)
    assert "not know" not in str(split_store(store, task=Task("numbers", "age")).notes())
    assert "without_split" not in split_store(FeatureStore.open(place, at=1)).to_dict()


def test_pictures_with_equal_digests_get_the_same_group_number():
    digests = np.zeros((4, 32), np.uint8)
    digests[1, 31], digests[3, 31] = 7, 7
    digests[2, 0] = 1
    groups = groups_of_equal_bytes(digests).tolist()
    assert groups[1] == groups[3]
    assert len(set(groups)) == 3
