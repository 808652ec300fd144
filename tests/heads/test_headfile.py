from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import DamagedError, DataError, IdentityError, UsageError
from featstore.files import sealed
from featstore.heads import HEADS, headfile, load_head, save_head, train_head
from tests.heads.made_up import Streamed, blobs

KINDS = list(HEADS)
_TRAINED = {}


def trained(kind, classes=3):
    """Return a head trained on synthetic data; each head is trained once and shared by the tests of this file."""
    if (kind, classes) not in _TRAINED:
        X, y = blobs(200, 8, classes, seed=1)
        options = {"Cs": (1.0, 10.0), "gammas": (1.0,)} if kind == "rbf-svm" else {}
        identity = {"backbone": "resnet50", "weights_digest": "abc"}
        _TRAINED[kind, classes] = train_head(
            X, y, kind=kind, fingerprint="f1", identity=identity, meta={"label_version": 3}, **options
        )
    return _TRAINED[kind, classes]


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_saved_and_loaded_predictions_are_equal_bit_for_bit(kind, classes, dtype, tmp_path):
    head = trained(kind, classes)
    X, _ = blobs(150, 8, classes, seed=9, dtype=dtype)
    save_head(tmp_path / "head.fsh", head, {"split": "train"})
    loaded = load_head(tmp_path / "head.fsh")
    (tmp_path / "head.fsh").unlink()
    np.testing.assert_array_equal(loaded.decision_function(X), head.decision_function(X))
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))
    assert loaded.classes == head.classes == sorted(head.classes)
    assert (loaded.kind, loaded.dimension, loaded.fingerprint) == (kind, 8, "f1")
    assert loaded.identity == head.identity
    assert loaded.meta == {**head.meta, "split": "train"}
    assert loaded.decision_function(X).shape == ((150,) if classes == 2 else (150, classes))


@every_kind
def test_predict_blocks_equals_predicting_the_whole_array(kind):
    head = trained(kind)
    X, _ = blobs(150, 8, 3, seed=9)
    pieces = list(head.predict_blocks(Streamed(X)))
    assert len(pieces) > 1
    np.testing.assert_allclose(np.concatenate([p for _, p in pieces]), head.predict_proba(X), atol=1e-5)
    labels = np.array(head.classes)[np.concatenate([codes for codes, _ in pieces])]
    np.testing.assert_array_equal(labels, head.predict(X))
    assert head.predict(np.zeros((0, 8), np.float32)).shape == (0,)


@every_kind
@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 7), np.float32), "features of 7 values, where this head was trained on 8"),
        (np.full((3, 8), np.nan), "NaN or infinity in 3"),
        (np.full((3, 8), np.inf, np.float16), "NaN or infinity in 3"),
        (np.zeros(8), "2-d"),
        (np.array([["x"] * 8]), "numbers"),
    ],
)
def test_predict_rejects_unusable_features_with_a_one_line_error(kind, features, message):
    for call in (trained(kind).predict, trained(kind).predict_proba, trained(kind).decision_function):
        with pytest.raises(DataError, match=message) as caught:
            call(features)
        assert "\n" not in str(caught.value)


@every_kind
def test_error_for_another_feature_identity_names_the_differences(kind):
    head = trained(kind)
    head.check_identity("f1", {"backbone": "anything, the fingerprint decides"})
    with pytest.raises(IdentityError, match=r"identity: weights_digest abc, not xyz; extract with") as caught:
        head.check_identity("f2", {"backbone": "resnet50", "weights_digest": "xyz"})
    assert "backbone resnet50" not in str(caught.value)
    with pytest.raises(IdentityError, match=r"identity: backbone resnet50, not resnet18; extract with"):
        head.check_identity("f2", {"backbone": "resnet18", "weights_digest": "xyz", "preprocessing": {"crop": 224}})
    with pytest.raises(IdentityError, match="fingerprint f1"):
        head.check_identity("f2", head.identity)


@every_kind
def test_loading_a_head_detects_any_changed_byte(kind, tmp_path):
    path = tmp_path / "head.fsh"
    save_head(path, trained(kind))
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            load_head(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(DamagedError):
        load_head(path)


def forge(path, arrays, description):
    """Write a head file of the given arrays and description with valid checksums, as an attacker could."""
    sealed.write(path, headfile.KIND, arrays, description)


def parts(kind, path):
    save_head(path, trained(kind))
    file = sealed.SealedFile(path, headfile.KIND)
    arrays = {name: np.array(file[name]) for name in file.names if name != "meta"}
    meta = file.meta
    path.unlink()
    return arrays, meta


ARRAY_FORGERIES = {
    "missing": lambda arrays, name: arrays.pop(name),
    "wrong type": lambda arrays, name: arrays.update({name: arrays[name].astype(np.int32)}),
    "too short": lambda arrays, name: arrays.update({name: arrays[name][:-1]}),
    "empty": lambda arrays, name: arrays.update({name: arrays[name][:0]}),
    "other rank": lambda arrays, name: arrays.update({name: arrays[name].reshape(1, -1)[:, :1]}),
}


@every_kind
@pytest.mark.parametrize("forgery", list(ARRAY_FORGERIES))
def test_load_head_rejects_missing_arrays_and_arrays_of_wrong_shape(kind, forgery, tmp_path):
    path = tmp_path / "head.fsh"
    names = list(trained(kind).model.arrays())
    for name in names:
        arrays, meta = parts(kind, path)
        ARRAY_FORGERIES[forgery](arrays, name)
        forge(path, arrays, meta)
        with pytest.raises(DamagedError, match=r"head\.fsh"):
            load_head(path)
        path.unlink()


@every_kind
def test_load_head_rejects_impossible_values(kind, tmp_path):
    path = tmp_path / "head.fsh"
    for name, array in trained(kind).model.arrays().items():
        arrays, meta = parts(kind, path)
        arrays[name] = array.copy()
        arrays[name].reshape(-1)[0] = np.nan if array.dtype.kind == "f" else 99
        forge(path, arrays, meta)
        with pytest.raises(DamagedError):
            load_head(path)
        path.unlink()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"model": "pickle"},
        {"model": 3},
        {"classes": ["a", "a", "b"]},
        {"classes": ["a"]},
        {"classes": "abc"},
        {"classes": [1, 2, 3]},
        {"classes": ["a", "b", "c", "d"]},
        {"numbers": {}},
        {"numbers": {"scale": -1.0}},
        {"numbers": {"scale": True}},
        {"numbers": {"scale": "1"}},
        {"numbers": {"scale": 1e300}},
        {"numbers": []},
        {"fingerprint": None},
        {"identity": []},
        {"about": "text"},
        {"head": None},
    ],
    ids=json.dumps,
)
def test_load_head_rejects_invalid_descriptions(change, tmp_path):
    path = tmp_path / "head.fsh"
    arrays, meta = parts("logreg", path)
    forge(path, arrays, {**meta, **change})
    with pytest.raises(DamagedError, match=r"head\.fsh"):
        load_head(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["format", "head", "model", "numbers", "classes", "fingerprint", "identity", "about"]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(key=st.sampled_from(KEYS), value=json_values)
def test_load_head_accepts_or_refuses_any_json_as_the_description_of_a_head(key, value, tmp_path_factory):
    path = tmp_path_factory.mktemp("forged") / "head.fsh"
    arrays, meta = parts("logreg", path)
    forge(path, arrays, {**meta, key: value})
    try:
        head = load_head(path)
    except DamagedError:
        return
    assert head.predict_proba(np.zeros((1, 8), np.float32)).sum() == pytest.approx(1)


def test_load_head_rejects_a_shard_file(tmp_path):
    sealed.write(tmp_path / "x", "shard", {"a": np.zeros(3)}, {})
    with pytest.raises(DamagedError, match="shard, where a head is needed"):
        load_head(tmp_path / "x")


def test_class_names_may_be_any_text(tmp_path):
    X, _ = blobs(60, 4, 2)
    names = ["\ud800 lone surrogate", "zwei\nZeilen, 'quoted' <b>"]
    head = train_head(X, [names[i % 2] for i in range(60)], C=1.0)
    save_head(tmp_path / "h", head)
    assert load_head(tmp_path / "h").classes == sorted(names)


def test_plain_h5py_reads_the_arrays_of_a_head_file(tmp_path):
    head = trained("logreg")
    save_head(tmp_path / "h", head)
    with h5py.File(tmp_path / "h") as file:
        np.testing.assert_array_equal(file["coef"][()], head.model.coef)
        assert json.loads(file["meta"][()].tobytes())["classes"] == head.classes


def test_data_error_is_a_usage_error_and_a_value_error(tmp_path):
    assert issubclass(DataError, UsageError)
    assert issubclass(DataError, ValueError)
