"""Heads, queries and removals of a store with augmented views."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featstore import defaults
from featstore.errors import DamagedError, IdentityError, UsageError
from featstore.heads import load_head, train_head
from featstore.stages.extract import extract_together
from featstore.stages.index import index
from featstore.stages.predict import predict
from featstore.stages.remove import purge, remove, restore
from featstore.stages.search import search
from featstore.stages.train import retrain, train, train_again
from featstore.store import FeatureStore
from featstore.store.view_stores import ViewRows, view_path, view_stores
from tests.chain import names, write_coloured
from tests.made import tiny_backbone

HEADS = ["logreg", "linear-svm", "mlp"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with two augmented views, which no test changes."""
    place = tmp_path_factory.mktemp("views")
    folder = write_coloured(place / "p", names("train", 10) + names("val", 5))
    make(folder, place / "s")
    return place / "s"


def make(folder: Path, store: Path) -> None:
    extract_together(folder, [store], views=3, backbones=[tiny_backbone()], supervised=False, batch=8)


def options(head: str) -> dict[str, object]:
    return {} if head == "mlp" else {"folds": 3}


@pytest.mark.parametrize("head", HEADS)
def test_head_on_views_learns_from_all_views_and_is_tested_on_plain_pictures(
    made: Path, tmp_path: Path, head: str
) -> None:
    plain = train(made, head=head, out=tmp_path / "a.head", **options(head))
    viewed = train(made, head=head, out=tmp_path / "b.head", views=True, **options(head))
    assert (plain.head.meta["rows"], viewed.head.meta["rows"]) == (20, 60)
    assert viewed.report.rows == plain.report.rows == 10
    assert viewed.head.fingerprint == FeatureStore.open(made).fingerprint
    vectors = FeatureStore.open(made).features(rows=viewed.split.test)
    np.testing.assert_array_equal(load_head(tmp_path / "b.head").predict_proba(vectors), viewed.probabilities)
    assert any("3 views: 60 rows" in note for note in viewed.notes)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_train_again_with_views_gives_a_bit_identical_head(made: Path, tmp_path: Path, head: str) -> None:
    train(made, head=head, out=tmp_path / "b.head", views=True, **options(head))
    assert train_again(tmp_path / "b.head").equal
    shutil.copy(tmp_path / "b.head", tmp_path / "c.head")
    assert retrain(tmp_path / "c.head").head.meta["rows"] == 60


def test_only_a_head_trained_on_views_records_views(made: Path, tmp_path: Path) -> None:
    plain = train(made, out=tmp_path / "a.head", folds=3).head
    viewed = train(made, out=tmp_path / "b.head", folds=3, views=True).head
    assert "views" not in plain.meta
    assert "views" not in plain.meta["request"]
    assert [each["view"] for each in viewed.meta["views"]] == [1, 2]
    assert plain.meta["data"]["train"] != viewed.meta["data"]["train"]
    assert plain.meta["data"]["test"] == viewed.meta["data"]["test"]
    assert any(
        not np.array_equal(plain.model.arrays()[name], viewed.model.arrays()[name]) for name in plain.model.arrays()
    )


def test_streamed_rows_of_views_have_the_order_of_the_array(made: Path) -> None:
    stores = [FeatureStore.open(made), *map(FeatureStore.open, view_stores(made).values())]
    viewed = ViewRows(stores, np.array([7, 3, 21]))
    assert viewed.order.tolist() == [0, 1, 2] * 3
    assert np.concatenate(list(viewed.blocks())).tobytes() == viewed.features().tobytes()
    keys = [stores[0].keys[row] for row in (7, 3, 21)]
    for number, store in enumerate(stores):
        expected = store.features(rows=store.index_of(keys))
        assert viewed.features()[3 * number : 3 * number + 3].tobytes() == expected.tobytes()


def test_head_on_views_trained_by_streaming_equals_that_in_memory(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = train(made, out=tmp_path / "a.head", views=True, C=0.1)
    monkeypatch.setattr(defaults, "HEAD_MEMORY", 1000)
    streamed = train(made, out=tmp_path / "b.head", views=True, C=0.1)
    assert np.abs(small.probabilities - streamed.probabilities).max() < 1e-3


def test_training_on_views_uses_no_view_of_a_held_out_picture(made: Path, tmp_path: Path, monkeypatch) -> None:
    seen = []
    original = ViewRows.__init__

    def record(self: ViewRows, stores, rows) -> None:
        seen.append(set(rows.tolist()))
        original(self, stores, rows)

    monkeypatch.setattr(ViewRows, "__init__", record)
    scored = []

    def record_scored(*rest, **options):
        scored.append(options["scored"].tolist())
        return train_head(*rest, **options)

    monkeypatch.setattr("featstore.heads.train_head", record_scored)
    trained = train(made, out=tmp_path / "a.head", views=True, folds=3)
    assert seen
    # Two of three training rows are views; a fold scores plain pictures alone.
    assert scored == [[True] * len(trained.split.train) + [False] * 2 * len(trained.split.train)]
    assert all(rows == set(trained.split.train.tolist()) for rows in seen)
    assert not set(trained.split.test.tolist()) & seen[0]


def test_train_with_views_requires_one_store_with_augmented_views(made: Path, chain, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no augmented views"):
        train(chain.store, out=tmp_path / "a.head", views=True)
    with pytest.raises(UsageError, match="one store"):
        train([made, view_path(made, 1)], out=tmp_path / "a.head", views=True)


def test_views_computed_with_other_weights_are_refused(made: Path, tmp_path: Path) -> None:
    folder = write_coloured(tmp_path / "p", names("train", 10) + names("val", 5))
    extract_together(folder, [tmp_path / "s"], backbones=[tiny_backbone(seed=1)], supervised=False, batch=8)
    shutil.copytree(view_path(made, 1).parent, view_path(tmp_path / "s", 1).parent)
    with pytest.raises(IdentityError, match=r"is no view of the features in .*\(weights"):
        train(tmp_path / "s", views=True, folds=3)


def test_train_again_names_missing_augmented_views(made: Path, tmp_path: Path) -> None:
    for name in ("s", "s.views"):
        shutil.copytree(made.with_name(name), tmp_path / name)
    train(tmp_path / "s", out=tmp_path / "a.head", views=True, folds=3)
    shutil.rmtree(view_path(tmp_path / "s", 2))
    with pytest.raises(UsageError, match="not all views"):
        train_again(tmp_path / "a.head", [tmp_path / "s"])


def test_pictures_cannot_be_compared_with_features_of_augmented_views(made: Path, tmp_path: Path) -> None:
    view = tmp_path / "v"
    shutil.copytree(view_path(made, 1), view)
    head = train(view, out=tmp_path / "v.head", folds=3).path
    picture = made.with_name("p") / "train/ant/00.png"
    built = index(view, out=tmp_path / "v.faiss").path
    for ask in (lambda: predict(head, [picture]), lambda: search(built, [picture])):
        with pytest.raises(UsageError, match="augmented pictures") as error:
            ask()
        assert "\n" not in str(error.value)


def removable(made: Path, place: Path) -> Path:
    """Return a copy of the store with its views."""
    for name in ("p", "s", "s.views"):
        shutil.copytree(made.with_name(name), place / name)
    return place / "s"


def files_with(folder: Path, words: list[bytes]) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if any(word in path.read_bytes() for word in words)]


def test_purge_erases_a_picture_from_every_view(made: Path, tmp_path: Path) -> None:
    store, key = removable(made, tmp_path), "train/ant/03.png"
    words = [key.encode()]
    for path in (store, *view_stores(store).values()):
        opened = FeatureStore.open(path)
        words.append(opened.features(rows=opened.index_of([key])).tobytes())
    head = train(store, out=tmp_path / "a.head", views=True, head="knn").path
    assert files_with(store.with_name("s.views"), words)
    report = purge(store, [key], also=[head])
    assert report.left == []
    assert [Path(each).name for each in report.views] == ["1", "2"]
    assert files_with(store, words) == files_with(store.with_name("s.views"), words) == []
    assert load_head(head).meta["rows"] == 57


def test_purge_erases_an_earlier_removed_picture_from_every_view(made: Path, tmp_path: Path) -> None:
    store, key = removable(made, tmp_path), "train/ant/03.png"
    remove(store, [key])
    assert all(key not in FeatureStore.open(path).keys for path in view_stores(store).values())
    assert files_with(store.with_name("s.views"), [key.encode()])
    purge(store)
    assert files_with(store.with_name("s.views"), [key.encode()]) == []


def test_restoring_a_picture_restores_it_in_every_view(made: Path, tmp_path: Path) -> None:
    store, key = removable(made, tmp_path), "train/ant/03.png"
    remove(store, [key])
    assert restore(store, [key]) == 1
    make(tmp_path / "p", store)
    for path in (store, *view_stores(store).values()):
        assert key in FeatureStore.open(path).keys


def test_dry_run_of_remove_does_not_change_views(made: Path, tmp_path: Path) -> None:
    store, key = removable(made, tmp_path), "train/ant/03.png"
    remove(store, [key], dry_run=True)
    assert all(key in FeatureStore.open(path).keys for path in view_stores(store).values())


@pytest.mark.parametrize("record", [None, [], "x", [1], [{"store_id": 5}], [{"view": 1}]])
def test_head_with_a_forged_record_of_its_views_is_refused_in_one_line(made: Path, tmp_path: Path, record) -> None:
    from featstore.heads import save_head

    trained = train(made, out=tmp_path / "a.head", views=True, folds=3).head
    trained.meta["views"] = json.loads(json.dumps(record))
    save_head(tmp_path / "b.head", trained, {})
    with pytest.raises((UsageError, DamagedError)) as error:
        train_again(tmp_path / "b.head")
    assert "\n" not in str(error.value)
