"""Training a head again on the earlier state of its store gives bit-identical weights.

If pictures of that state are gone, the error names them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featstore.artifacts.model import write_model
from featstore.errors import DamagedError, UsageError
from featstore.heads import load_head, save_head
from featstore.heads.trainer import HEADS
from featstore.stages.compact import compact
from featstore.stages.index import index
from featstore.stages.info import info
from featstore.stages.remove import purge, remove
from featstore.stages.train import retrain, train, train_again
from featstore.store import FeatureStore
from featstore.store.denylist import Denylist
from featstore.store.label_history import label_history, undo_label
from featstore.store.labels import set_columns
from tests.chain import make_store, names, write_coloured
from tests.made import tiny_backbone
from tests.store.building import Pictures, build, plan, work
from tests.tuned import changed_backbone, random_head

SEEDS = int(os.environ.get("FEATSTORE_PAST_SEEDS", "2"))
STEPS = int(os.environ.get("FEATSTORE_PAST_STEPS", "13"))


def grown(folder: Path, store: Path) -> None:
    """Add pictures to the store, change the labels twice, and undo the second change."""
    write_coloured(folder, ["train/ant/new.png", "val/bee/new.png"], seed=5)
    make_store(folder, store)
    set_columns(store, [b"train/ant/00.png"], {"label": ["bee"]})
    set_columns(store, [b"train/ant/01.png", b"val/ant/01.png"], {"label": ["bee", "bee"]})
    undo_label(store)


@pytest.mark.parametrize("kind", sorted(HEADS))
def test_train_again_gives_equal_weights_after_the_store_changed(tmp_path: Path, kind: str):
    folder = write_coloured(tmp_path / "p", names("train", 8) + names("val", 4))
    store = make_store(folder, tmp_path / "s")
    folds = {"folds": 2} if HEADS[kind].folded else {}
    first = train(store, head=kind, out=tmp_path / "a.head", **folds)
    grown(folder, store)
    compact(store)
    again = train_again(tmp_path / "a.head", out=tmp_path / "b.head")
    assert (again.equal, again.rows, again.notes) == (True, 16, [])
    report, before = (load_head(tmp_path / name).meta["report"] for name in ("b.head", "a.head"))
    assert report == before
    now = train(store, head=kind, out=tmp_path / "c.head", **folds)
    assert now.head.meta["data"] != first.head.meta["data"]
    opened = FeatureStore.open(store, at=tmp_path / "a.head")
    assert len(opened) == 24
    assert opened.labels.tolist().count("ant") == 12


def test_head_on_two_stores_is_trained_again_after_they_moved(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("train", 6) + names("val", 3))
    stores = [make_store(folder, tmp_path / "s"), make_store(folder, tmp_path / "t", backbone=tiny_backbone(3))]
    train(stores, folds=2, out=tmp_path / "a.head")
    grown(folder, stores[0])
    (tmp_path / "new").mkdir()
    moved = [shutil.move(store, tmp_path / "new" / store.name) for store in stores]
    with pytest.raises(UsageError, match="is not there; say where it is"):
        train_again(tmp_path / "a.head")
    assert train_again(tmp_path / "a.head", moved[::-1]).equal


def test_updated_head_equals_a_new_head_with_the_same_settings(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("train", 8) + names("val", 4))
    store = make_store(folder, tmp_path / "s")
    train(store, head="knn", folds=2, out=tmp_path / "a.head", seed=5)
    grown(folder, store)
    updated = retrain(tmp_path / "a.head")
    new = train(store, head="knn", folds=2, out=tmp_path / "b.head", seed=5)
    assert updated.path == str(tmp_path / "a.head")
    assert load_head(tmp_path / "a.head").meta["data"] == new.head.meta["data"]
    assert load_head(tmp_path / "a.head").meta["request"] == new.head.meta["request"]


def test_update_of_a_head_refuses_another_store(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("train", 8) + names("val", 4))
    train(make_store(folder, tmp_path / "s"), folds=2, out=tmp_path / "a.head")
    other = make_store(folder, tmp_path / "other")
    for again in (retrain, train_again):
        with pytest.raises(UsageError, match="is not the store that"):
            again(tmp_path / "a.head", [other])


def test_train_again_error_names_the_first_purged_picture(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("train", 6) + names("val", 3))
    store = make_store(folder, tmp_path / "s")
    train(store, folds=2, out=tmp_path / "a.head")
    (folder / "train/ant/03.png").unlink()
    make_store(folder, store)
    assert train_again(tmp_path / "a.head").equal
    compact(store)
    with pytest.raises(
        UsageError, match=r"cannot be trained again: 1 picture of then is gone \(the first: 'train/ant/03.png'\)"
    ):
        train_again(tmp_path / "a.head")


@pytest.mark.parametrize("purging", [False, True])
def test_train_again_error_names_pictures_missing_from_the_store_of_labels(tmp_path: Path, purging: bool):
    folder = write_coloured(tmp_path / "p", names("train", 6) + names("val", 3))
    old = make_store(folder, tmp_path / "old")
    store = make_store(old, tmp_path / "s", backbone=tiny_backbone(2), follow=True)
    train(store, folds=2, out=tmp_path / "a.head")
    remove(old, ["train/ant/03.png"])
    assert (train_again(tmp_path / "a.head").equal, train_again(tmp_path / "a.head").notes) == (True, [])
    if purging:
        purge(old)
    else:
        compact(old)
    with pytest.raises(
        UsageError, match=r"again: 1 picture of then is gone \(the first: 'train/ant/03.png'\); they were"
    ):
        train_again(tmp_path / "a.head")


def test_train_again_notes_purged_pictures_that_the_head_did_not_use(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("", 9))
    store = make_store(folder, tmp_path / "s")
    keys = [f"{label}/{number:02d}.png".encode() for label in ("ant", "bee") for number in range(8)]
    set_columns(store, keys, {"split": ["train" if number % 8 < 5 else "test" for number in range(16)]})
    train(store, folds=2, out=tmp_path / "a.head")
    (folder / "ant/08.png").unlink()
    make_store(folder, store)
    compact(store)
    again = train_again(tmp_path / "a.head")
    assert again.equal
    assert again.notes == ["1 picture of then is gone (the first: 'ant/08.png'); the head did not use them"]


def test_train_again_reports_differing_weights(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("train", 6) + names("val", 3))
    train(make_store(folder, tmp_path / "s"), folds=2, out=tmp_path / "a.head")
    head = load_head(tmp_path / "a.head")
    coef = head.model.coef.copy()
    coef.reshape(-1)[0] += 0.25
    save_head(tmp_path / "a.head", replace(head, model=replace(head.model, coef=coef)))
    again = train_again(tmp_path / "a.head")
    assert not again.equal
    assert again.differences == ["coef: 1 of 8 values differ, at most by 0.25"]


def test_train_again_refuses_a_head_without_a_record_of_its_training(chain, tmp_path: Path):
    head = load_head(Path(chain.trained.path))
    meta = {name: value for name, value in head.meta.items() if name not in ("past", "data", "request")}
    save_head(tmp_path / "old.head", type(head)(**{**head.__dict__, "meta": meta}))
    with pytest.raises(UsageError, match="does not record how it was trained"):
        train_again(tmp_path / "old.head", [chain.store])
    assert len(FeatureStore.open(chain.store, at=tmp_path / "old.head")) == 30


def test_head_of_a_model_is_not_trained_again_without_its_network(chain, tmp_path: Path):
    backbone = changed_backbone()
    meta = load_head(Path(chain.trained.path)).meta
    head = replace(random_head(backbone.dimension, ["ant", "bee"]), meta=meta)
    write_model(tmp_path / "m", backbone, head, {})
    before = (tmp_path / "m" / "model.head").read_bytes()
    for path in (tmp_path / "m", tmp_path / "m" / "model.head"):
        for again in (train_again, retrain):
            with pytest.raises(UsageError, match=r"head of a fine-tuned network.*run featstore finetune again"):
                again(path)
    assert (tmp_path / "m" / "model.head").read_bytes() == before
    save_head(tmp_path / "copy.head", load_head(tmp_path / "m" / "model.head"))
    with pytest.raises(UsageError, match="does not record how it was trained"):
        retrain(tmp_path / "copy.head")
    assert info(tmp_path / "m" / "model.head")["chosen"] == {}


@pytest.mark.parametrize(
    "forged",
    [
        {"options": {"out": "elsewhere.head"}},
        {"options": {"C": 1.0}},
        {"options": {"k": 5}},
        {"test_split": {}},
        {"seed": "x"},
        {"folds": True},
    ],
)
def test_train_again_refuses_a_head_with_an_invalid_record_of_its_training(
    chain, tmp_path: Path, forged: dict[str, object]
):
    head = load_head(Path(chain.trained.path))
    meta = {**head.meta, "request": {**head.meta["request"], **forged}}
    save_head(tmp_path / "forged.head", replace(head, meta=meta))
    for again in (train_again, retrain):
        with pytest.raises(DamagedError, match=r"forged\.head: its record of how it was trained is damaged"):
            again(tmp_path / "forged.head")
    assert [path.name for path in tmp_path.iterdir()] == ["forged.head"]


def test_store_opens_at_the_state_at_which_an_index_was_built(tmp_path: Path):
    folder = write_coloured(tmp_path / "p", names("", 6))
    store = make_store(folder, tmp_path / "s")
    path = index(store, out=tmp_path / "s.faiss").path
    write_coloured(folder, ["ant/new.png"])
    make_store(folder, store)
    assert len(FeatureStore.open(store, at=path)) == 12
    index(store, out=path, update=True)
    assert len(FeatureStore.open(store, at=path)) == 13


def test_opening_at_the_state_of_another_stores_head_is_refused(chain, tmp_path: Path):
    store = make_store(chain.folder, tmp_path / "other")
    with pytest.raises(UsageError, match="was not made from"):
        FeatureStore.open(store, at=chain.trained.path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_heads_trained_after_random_store_changes_can_be_trained_again(tmp_path: Path, seed: int):
    random = np.random.default_rng(seed)
    path, heads = tmp_path / "s", []
    source = Pictures({}, {}, {})
    counter = iter(range(1000))

    def add(count: int) -> None:
        for number in range(count):
            key = f"{'ab'[number % 2]}/{next(counter):03d}".encode()
            source.content[key] = int(random.integers(0, 100))
            source.labels[key], source.splits[key] = key[:1].decode(), ("train", "train", "test")[number // 2 % 3]

    add(24)
    build(path, source)
    for step in range(STEPS):
        keys = sorted(source.content)
        some = [keys[at] for at in random.choice(len(keys), min(3, len(keys)), replace=False)]
        action = random.choice(["add", "change", "label", "undo", "remove", "compact", "work", "erase", "purge"])
        if action == "add":
            add(4)
            plan(path, source)
        elif action == "change":
            source.content.update({key: int(random.integers(0, 100)) for key in some})
            plan(path, source)
        elif action == "label":
            set_columns(path, some, {"label": [str(random.choice(["a", "b"])) for _ in some]})
        elif action == "undo" and any(each.origin == "user" and not each.undone_by for each in label_history(path)):
            undo_label(path)
        elif action == "remove" and len(keys) > 12:
            for key in some[:2]:
                del source.content[key]
            plan(path, source)
        elif action == "compact":
            compact(path)
        elif action == "work":
            work(path, source)
        elif action in ("erase", "purge") and len(keys) > 12:
            live = set(FeatureStore.open(path).keys)
            remove(path, [key for key in some[:1] if key.decode() in live])
            for key in some[:1]:
                del source.content[key]
            rewritten = purge(path).rewritten if action == "purge" and denied(path) else []
            heads = [(out, *(seen(path) if str(out) in rewritten else before)) for out, *before in heads]
        out = tmp_path / f"{step}.head"
        try:
            train(path, head=str(random.choice(["logreg", "knn"])), folds=2, out=out)
            heads.append((out, *seen(path)))
        except UsageError:
            # Some random states cannot be trained on, for example if a class has only one picture.
            continue
    assert len(heads) > STEPS // 3
    now = all_ids(path)
    outcomes = []
    for out, ids, labels in heads:
        then = FeatureStore.open(path, at=out, missing="skip")
        assert set(then.ids.tolist()) == ids & now
        assert then.missing.count == len(ids - now)
        assert all(labels[key] == label for key, label in zip(then.keys, then.labels.tolist(), strict=True))
        # Every picture has a label and a split, so the head used all pictures, and a missing picture is an error.
        if then.missing.count:
            with pytest.raises(UsageError, match=f"{then.missing.count} pictures? of then"):
                train_again(out)
        else:
            assert train_again(out).equal
            outcomes.append(True)
    assert outcomes


def seen(path: Path) -> tuple[set[int], dict[str, str]]:
    """Return the ids of the store's rows, and the label of each key."""
    store = FeatureStore.open(path)
    return set(store.ids.tolist()), dict(zip(store.keys, store.labels.tolist(), strict=True))


def denied(path: Path) -> int:
    """Return the length of the denylist (removed pictures that must not be added again)."""
    return len(Denylist.of(FeatureStore.open(path)._plan))


def all_ids(path: Path) -> set[int]:
    """Return the ids of all rows in the plan (list of pictures) of the store, including retired rows."""
    return {number for segment in FeatureStore.open(path)._plan.segments for number in segment.ids.tolist()}
