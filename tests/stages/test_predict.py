from __future__ import annotations

import os

import numpy as np
import pytest

from featstore.artifacts import open_head
from featstore.errors import FeatstoreError, IdentityError, UsageError
from featstore.stages.predict import Prediction, Predictions, predict
from featstore.store import FeatureStore
from tests.chain import make_store, write_coloured
from tests.made import tiny_backbone


def test_predictions_for_a_folder_equal_those_for_its_store(chain):
    by_store = {one.key: one for one in predict(chain.trained.path, chain.store)}
    by_folder = list(predict(chain.trained.path, chain.folder, backbone=tiny_backbone(), batch=7))
    assert [one.key for one in by_folder] == sorted(by_store)
    for one in by_folder:
        np.testing.assert_allclose(one.probabilities, by_store[one.key].probabilities, atol=1e-5)
        assert one.label == by_store[one.key].label
        assert one.probability == max(one.probabilities)


def test_predict_reports_unreadable_pictures_at_their_position(chain, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>")
    good = chain.folder / "val/bee/00.png"
    found = list(predict(chain.trained.path, [good, bad, tmp_path / "none.png", good], backbone=tiny_backbone()))
    assert [one.key for one in found] == [str(good), str(bad), str(tmp_path / "none.png"), str(good)]
    assert [one.label for one in found] == ["bee", None, None, "bee"]
    assert [one.reason for one in found] == ["", "not-a-picture", "missing", ""]
    assert found[1].to_dict(["ant", "bee"])["label"] is None
    assert set(found[0].to_dict(["ant", "bee"])["probabilities"]) == {"ant", "bee"}


def test_predict_progress_counts_every_picture_of_every_input(chain, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    told = []
    paths = [chain.folder, tmp_path / "bad.jpg"]
    made = list(predict(chain.trained.path, paths, backbone=tiny_backbone(), batch=7, progress=told.append))
    assert told[0].done == 0
    assert (told[-1].done, told[-1].total, told[-1].failed) == (len(made), len(made), 1)
    assert len(told) == 1 + -(-len(made) // 7)


def test_predict_raises_no_error_if_all_pictures_fail(chain, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"")
    (one,) = predict(chain.trained.path, tmp_path / "bad.jpg", backbone=tiny_backbone())
    assert (one.label, one.reason) == (None, "empty")


def test_predict_gives_a_reason_for_failures_of_a_store(chain, tmp_path):
    folder = write_coloured(tmp_path / "p", ["ant/0.png", "bee/1.png"])
    (folder / "bee/2.png").write_bytes(b"no")
    found = list(predict(chain.trained.path, make_store(folder, tmp_path / "s")))
    assert [(one.key, one.reason) for one in found] == [
        ("ant/0.png", ""),
        ("bee/1.png", ""),
        ("bee/2.png", "not-a-picture"),
    ]


def test_predict_refuses_a_backbone_with_other_weights(chain):
    with pytest.raises(IdentityError, match="weights"):
        predict(chain.trained.path, chain.folder, backbone=tiny_backbone(5))


def test_predict_rejects_invalid_arguments(chain, tmp_path):
    with pytest.raises(UsageError, match="there is no such head"):
        open_head(tmp_path / "none.head")
    with pytest.raises(UsageError, match="is a folder"):
        open_head(tmp_path)
    with pytest.raises(UsageError, match="nothing to classify"):
        predict(chain.trained.path, [])
    with pytest.raises(UsageError, match="one store"):
        predict(chain.trained.path, [chain.store, chain.folder])
    # featstore cannot load the tiny backbone by its name; the error says which option to use instead.
    with pytest.raises(UsageError, match="no backbone 'tiny'.*--backbone package.module:function"):
        predict(chain.trained.path, chain.folder)


def test_predict_reads_a_store_in_blocks(chain, monkeypatch):
    monkeypatch.setattr(FeatureStore, "features", None)
    assert len(list(predict(chain.trained.path, os.fspath(chain.store)))) == 30


def test_predictions_can_be_iterated_twice_but_are_computed_once(chain, monkeypatch):
    found = predict(chain.trained.path, chain.store)
    half = [one.key for one, _ in zip(found, range(7), strict=False)]
    first = list(found)
    monkeypatch.setattr(FeatureStore, "stream", None)
    assert [one.key for one in found] == [one.key for one in first] == list(FeatureStore.open(chain.store).keys)
    assert half == [one.key for one in first[:7]]
    assert repr(found) == "<Predictions of 2 classes: 30 made>"


def test_stream_of_predictions_can_be_iterated_twice_in_constant_memory(chain):
    found = predict(chain.trained.path, chain.store)
    assert len(list(found.stream())) == len(list(found.stream())) == 30
    assert repr(found) == "<Predictions of 2 classes: 0 made so far>"
    assert len(list(found)) == 30


@pytest.mark.parametrize("error", [OSError("the disk"), KeyboardInterrupt()])
def test_failed_predictions_raise_again_at_the_second_iteration(error):
    def make():
        yield Prediction("a", None, None, "missing", "")
        raise error

    found = Predictions(["x", "y"], make, [])
    with pytest.raises(type(error)):
        list(found)
    with pytest.raises((OSError, FeatstoreError)):
        list(found)


def test_predictions_are_converted_to_a_pandas_table(chain, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    good = chain.folder / "val/bee/00.png"
    found = predict(chain.trained.path, [good, tmp_path / "bad.jpg"], backbone=tiny_backbone())
    table = found.to_pandas()
    assert list(table) == ["key", "label", "probability", "ant", "bee", "reason", "message"]
    assert table["label"].tolist()[0] == "bee"
    assert table["label"].isna().tolist() == [False, True]
    assert list(table["label"].cat.categories) == ["ant", "bee"]
    np.testing.assert_array_equal(table[["ant", "bee"]].to_numpy()[0], next(iter(found)).probabilities)
    assert table["probability"].tolist()[0] == table["bee"][0]
    assert table["reason"].tolist() == ["", "not-a-picture"]
    assert table["key"].tolist() == [str(good), str(tmp_path / "bad.jpg")]
    empty = Predictions(["key", "b"], lambda: iter(()), []).to_pandas()
    assert (len(empty), list(empty)) == (0, ["key", "label", "probability", "key_", "b", "reason", "message"])
