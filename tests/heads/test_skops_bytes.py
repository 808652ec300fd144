"""Classifiers in head files: only trusted types are built, and damaged or hostile files give a one-line error."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import DamagedError, FeatstoreError, UsageError
from featstore.files import sealed
from featstore.heads import load_head, save_head, train_head
from featstore.heads.skops_bytes import pack, unpack, untrusted
from tests.heads.made_up import blobs

pytest.importorskip("skops")

LDA = "sklearn.discriminant_analysis:LinearDiscriminantAnalysis"
TREE = "sklearn.tree:DecisionTreeClassifier"
MODULE = "heads_of_a_stranger"


@pytest.fixture(scope="module")
def heads():
    X, y = blobs(60, 4, 3, seed=1)
    return {kind: train_head(X, y, kind=kind, folds=2) for kind in (LDA, TREE)}, X


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """Make MODULE importable, and yield the path of a file that importing MODULE creates."""
    mark = tmp_path / "was-imported"
    (tmp_path / f"{MODULE}.py").write_text(
        "from pathlib import Path\n"
        "from sklearn.naive_bayes import GaussianNB\n"
        f"Path({str(mark)!r}).touch()\n"
        "class Own(GaussianNB):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop(MODULE, None)


def changed(data: bytes, change, compression=zipfile.ZIP_STORED) -> bytes:
    """Return the skops file ``data`` with its schema changed by ``change``."""
    source, made = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as file:
        for name in source.namelist():
            text = source.read(name)
            if name == "schema.json":
                state = json.loads(text)
                text = json.dumps(change(state) or state).encode()
            file.writestr(name, text)
    return made.getvalue()


def test_saving_equal_estimators_by_skops_gives_equal_bytes(heads):
    from sklearn.ensemble import RandomForestClassifier

    X, y = heads[1], np.arange(60) % 3
    made = [pack(RandomForestClassifier(5, random_state=0).fit(X, y)) for _ in range(2)]
    assert made[0] == made[1]
    loaded = unpack(made[0], untrusted(made[0], "a"), "a")
    np.testing.assert_array_equal(loaded.predict(X), RandomForestClassifier(5, random_state=0).fit(X, y).predict(X))


def test_error_lists_the_untrusted_types_in_a_head(heads, tmp_path):
    trained, X = heads
    save_head(tmp_path / "tree.head", trained[TREE])
    loaded = load_head(tmp_path / "tree.head")
    assert loaded.model.untrusted() == ["sklearn.tree._tree.Tree"]
    for call in (loaded.predict, loaded.predict_proba, loaded.decision_function):
        with pytest.raises(
            UsageError, match=r"does not trust: sklearn.tree._tree.Tree;.* --trust sklearn.tree._tree.Tree"
        ):
            call(X)
    np.testing.assert_array_equal(loaded.trusting(["sklearn.tree._tree.Tree"]).predict(X), trained[TREE].predict(X))


def test_loading_a_head_file_imports_only_trusted_modules(heads, tmp_path, stranger):
    def name_a_module(state):
        state["__module__"], state["__class__"] = MODULE, "Own"

    from sklearn.naive_bayes import GaussianNB

    trained, X = heads
    own = GaussianNB().fit(X, np.arange(60) % 3)
    payload = np.frombuffer(changed(pack(own), name_a_module), np.uint8)
    file = tmp_path / "hostile.head"
    save_head(file, trained[LDA])
    arrays = {"skops": payload}
    meta = {**sealed.SealedFile(file).meta, "head": f"{MODULE}:Own"}
    sealed.write(file, "head", arrays, meta)
    loaded = load_head(file)
    with pytest.raises(UsageError, match=f"does not trust: {MODULE}.Own") as caught:
        loaded.predict(X)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="does not trust"):
        load_head(file, trust=["sklearn.tree._tree.Tree"]).predict(X)
    assert not stranger.exists()
    assert MODULE not in sys.modules
    assert set(load_head(file, trust=[f"{MODULE}.Own"]).predict(X)) <= set(trained[LDA].classes)
    assert stranger.exists()


def call_a_function(state):
    state["content"]["content"]["solver"] = {
        "__class__": "system",
        "__module__": "os",
        "__loader__": "FunctionNode",
    }


def reduce_a_call(state):
    state["content"]["content"]["solver"] = {
        "__class__": "system",
        "__module__": "os",
        "__loader__": "ConstructorFromReduceNode",
        "content": {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": []},
    }


def nest_deeply(state):
    for _ in range(300):
        state = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": [state]}
    return {**state, "protocol": 0}


@pytest.mark.parametrize("change", [call_a_function, reduce_a_call])
def test_head_file_that_names_a_function_is_refused(heads, change):
    data = changed(heads[0][LDA].model.payload.tobytes(), change)
    assert "os.system" in untrusted(data, "a.head")
    with pytest.raises(UsageError, match=r"os\.system"):
        unpack(data, [], "a.head")


def test_head_files_that_expand_to_far_more_memory_are_refused(heads):
    data = heads[0][LDA].model.payload.tobytes()
    with pytest.raises(DamagedError, match="larger than the file"):
        unpack(changed(data, lambda state: None, zipfile.ZIP_DEFLATED), [], "a.head")

    def refer_often(state):
        state["content"] = state["content"] * 1000

    with pytest.raises(DamagedError, match="larger than the file"):
        unpack(changed(pack([np.zeros(10_000)]), refer_often), [], "a.head")


def test_head_file_whose_metadata_contradict_its_classifier_is_refused(heads, tmp_path):
    trained, X = heads
    save_head(tmp_path / "a.head", trained[LDA])
    file = sealed.SealedFile(tmp_path / "a.head")
    for name, value in (("dimension", 3), ("output", "fit"), ("scale", -1.0)):
        meta = {**file.meta, "numbers": {**file.meta["numbers"], name: value}}
        sealed.write(tmp_path / "b.head", "head", {"skops": file["skops"]}, meta)
        with pytest.raises(DamagedError):
            load_head(tmp_path / "b.head").trusting([])
    sealed.write(tmp_path / "b.head", "head", {"skops": file["skops"]}, {**file.meta, "classes": ["a", "b"]})
    with pytest.raises(DamagedError, match="does not fit its classes"):
        load_head(tmp_path / "b.head").predict(X)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_loading_changed_skops_bytes_raises_only_featstore_errors(heads, data):
    payload = bytearray(heads[0][LDA].model.payload.tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Any other exception fails the test. A changed number in an array raises no error here; the checksum of the
        # head detects it.
        with contextlib.suppress(FeatstoreError):
            unpack(bytes(payload), [], "a.head")
    for end in (0, 10, len(payload) // 2):
        with pytest.raises(DamagedError):
            unpack(bytes(payload[:end]), [], "a.head")


def test_deeply_nested_classifier_description_is_refused(heads):
    data = changed(heads[0][LDA].model.payload.tobytes(), nest_deeply)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        with pytest.raises(DamagedError, match="nested too deeply"):
            unpack(data, [], "a.head")
    finally:
        sys.setrecursionlimit(limit)


def test_classifier_of_another_scikit_learn_version_gives_a_warning(heads):
    def older(state):
        state["content"]["content"]["_sklearn_version"]["content"] = json.dumps("0.1\x1b[31m\nx")

    with pytest.warns(UserWarning, match="another version of scikit-learn made its classifier") as caught:
        unpack(changed(heads[0][LDA].model.payload.tobytes(), older), [], "a.head")
    assert not any("\x1b" in str(one.message) or "\n" in str(one.message) for one in caught)


def test_error_without_skops_names_the_extra_to_install(heads, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(UsageError, match=r"pip install 'image-featstore\[skops\]'"):
        untrusted(b"", "a.head")
