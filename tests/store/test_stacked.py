from __future__ import annotations

import shutil

import numpy as np
import pytest

from featstore.errors import DamagedError, IdentityError, UsageError
from featstore.heads import load_head
from featstore.pages.train import write_training_page
from featstore.stages.info import info
from featstore.stages.predict import predict
from featstore.stages.train import train
from featstore.store import FeatureStore
from featstore.store.stacked import StackedStores
from tests.chain import make_store, names, write_coloured
from tests.cli.running import run
from tests.made import tiny_backbone
from tests.page_reading import read

BACKBONES = [tiny_backbone(), tiny_backbone(1, dimension=5, name="other")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return a folder, its two stores by different backbones, and a head trained on both stores.

    The rows of the second store are in another order.
    """
    place = tmp_path_factory.mktemp("stacked")
    folder = write_coloured(place / "p", names("train", 8) + names("val", 4))
    first = make_store(folder, place / "a")
    later = write_coloured(place / "later", names("train", 8) + names("val", 4))
    (later / "train/ant/00.png").rename(place / "kept.png")
    second = make_store(later, place / "b", backbone=BACKBONES[1], dtype="float16")
    (place / "kept.png").rename(later / "train/ant/00.png")
    make_store(later, second, backbone=BACKBONES[1], dtype="float16")
    return folder, first, second, train([first, second], folds=3, C=0.1)


def test_features_of_two_stores_are_concatenated_by_key(pair):
    _, first, second, trained = pair
    one, other = FeatureStore.open(first), FeatureStore.open(second)
    assert list(one.keys) != list(other.keys)
    rows = np.array([0, 5, 23, 1])
    expected = np.concatenate(
        [one.features(rows=rows), other.features(rows=other.index_of([one.keys[row] for row in rows]))], axis=1
    )
    stack = StackedStores.open([first, second])
    np.testing.assert_array_equal(stack.features(rows), expected)
    blocks = stack.stream(rows)
    assert blocks.shape == (4, 13)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(blocks.blocks())), expected)
    assert trained.head.dimension == 13
    assert trained.report.rows == 8


def test_head_on_two_stores_predicts_from_stores_and_from_pictures(pair):
    folder, first, second, trained = pair
    assert trained.path.endswith("a+b.logreg.head")
    by_store = {one.key: one for one in predict(trained.path, [second, first])}
    assert len(by_store) == 24
    store = FeatureStore.open(first)
    for place, row in enumerate(trained.split.test.tolist()):
        np.testing.assert_allclose(by_store[store.keys[row]].probabilities, trained.probabilities[place], atol=1e-7)
    (folder / "bad.png").write_bytes(b"no")
    found = list(predict(trained.path, folder / "val", backbone=BACKBONES))
    found += list(predict(trained.path, [folder / "bad.png"], backbone=BACKBONES))
    (folder / "bad.png").unlink()
    assert found[-1].reason == "not-a-picture"
    for one in found[:-1]:
        np.testing.assert_allclose(one.probabilities, by_store[f"val/{one.key}"].probabilities, atol=1e-3)


def test_head_on_two_stores_records_both_stores(pair, tmp_path):
    _, first, second, trained = pair
    told = info(trained.path)
    prints = [FeatureStore.open(store).fingerprint for store in (first, second)]
    assert [one["fingerprint"] for one in told["features"]] == prints
    assert [one["store"] for one in told["features"]] == [str(first), str(second)]
    assert told["fingerprint"] not in prints
    lines = run("info", trained.path).stdout.splitlines()
    assert [line.split(",")[0] for line in lines if line.startswith("features")] == [
        "features: 8-d float32 of tiny (input of head)",
        "features: 5-d float16 of other (input of head)",
    ]
    write_training_page(trained, tmp_path / "page.html")
    text = read(tmp_path / "page.html").text
    assert "8-d float32 of tiny" in text
    assert "5-d float16 of other" in text


def test_head_on_two_stores_rejects_wrong_numbers_of_stores_and_other_invalid_arguments(pair, tmp_path):
    folder, first, second, trained = pair
    with pytest.raises(UsageError, match=r"2 stores \(tiny and other\), and 1 is named"):
        predict(trained.path, first)
    with pytest.raises(IdentityError, match="none of .* has those of other"):
        predict(trained.path, [first, make_store(folder, tmp_path / "x", backbone=tiny_backbone(7))])
    with pytest.raises(UsageError, match="2 backbones, and weights .* are given for 1"):
        predict(trained.path, folder, weights="random:0")
    with pytest.raises(UsageError, match="one store is named twice"):
        train([first, first])
    single = train(first, folds=3, C=0.1, out=tmp_path / "one.head")
    with pytest.raises(UsageError, match=r"1 store \(tiny\), and 2 are named"):
        predict(single.path, [first, second])
    head = load_head(trained.path)
    head.meta["origin"] = None
    with pytest.raises(DamagedError, match="does not say which stores"):
        predict(head, [first, second])


def test_pictures_missing_from_one_of_two_stores_are_counted(pair, tmp_path):
    folder, first, _, trained = pair
    fewer = tmp_path / "p"
    shutil.copytree(folder, fewer)
    for name in ("train/ant/03.png", "val/bee/01.png"):
        (fewer / name).unlink()
    short = make_store(fewer, tmp_path / "short", backbone=BACKBONES[1], dtype="float16")
    with pytest.raises(UsageError, match=r"short: lacks 2 of the 24 pictures of .*the first: 'train/ant/03.png'"):
        train([first, short])
    # If the store ``short`` comes first, no picture is missing, because the first store defines the pictures.
    assert any("2 pictures that" in note for note in train([short, first], folds=2, C=0.1).notes)
    reasons = {one.key: one.reason for one in predict(trained.path, [first, short])}
    assert {key for key, reason in reasons.items() if reason == "missing"} == {"train/ant/03.png", "val/bee/01.png"}


def test_two_stores_with_different_pictures_under_equal_keys_are_not_combined(pair, tmp_path):
    other = write_coloured(tmp_path / "p", names("train", 8) + names("val", 4), seed=5)
    store = make_store(other, tmp_path / "s", backbone=BACKBONES[1])
    with pytest.raises(UsageError, match="24 of the 24 pictures that it shares with .* have other bytes"):
        train([pair[1], store])
