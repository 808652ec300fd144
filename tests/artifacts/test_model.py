"""Model folders (a backbone and its head, written together), and weights files for other programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision import models

from featstore.artifacts import kind_of, open_head
from featstore.artifacts.model import is_model, load_model, tuned_identity, write_model, write_weights_only
from featstore.errors import UsageError
from featstore.files import model_folder
from tests.tuned import NETWORK, changed_backbone, random_head, write_tuned

_LOGITS = """
import sys
import numpy as np, torch
from featstore.artifacts.model import load_model
torch.set_num_threads(1)
model = load_model(sys.argv[1])
with torch.inference_mode():
    features = model.backbone.module(torch.from_numpy(np.load(sys.argv[2]))).numpy()
np.save(sys.argv[3], model.head.decision_function(features))
"""


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("classes", [("ant", "bee"), ("ant", "bee", "cow")])
def test_head_in_a_model_has_the_identity_of_the_fine_tuned_features(
    tmp_path: Path, classes: tuple[str, ...], hidden: int
) -> None:
    written = write_tuned(tmp_path / "m", classes=classes, hidden=hidden)
    loaded = load_model(tmp_path / "m")
    identity = tuned_identity(loaded.backbone)
    assert loaded.head.identity == identity.to_dict()
    assert loaded.head.fingerprint == identity.fingerprint
    assert (identity.precision, identity.dtype, identity.weights) == (
        "fp32",
        "float32",
        written.backbone.weights_digest,
    )
    assert (loaded.head.classes, loaded.record) == (list(classes), {"epochs": 1})
    assert kind_of(tmp_path / "m") == "model"
    assert open_head(tmp_path / "m").classes == list(classes)
    features = np.random.default_rng(0).normal(size=(4, loaded.backbone.dimension)).astype(np.float32)
    assert np.array_equal(loaded.head.predict_proba(features), written.head.predict_proba(features))
    assert (tmp_path / "m" / "metrics.csv").read_text() == "epoch,loss\n1,0.5\n"


@pytest.mark.slow
def test_model_loaded_in_another_process_gives_equal_logits(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = write_tuned(tmp_path / "m", classes=("ant", "bee", "cow"))
        pictures = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
        with torch.inference_mode():
            features = model.backbone.module(torch.from_numpy(pictures)).numpy()
    finally:
        torch.set_num_threads(threads)
    np.save(tmp_path / "x.npy", pictures)
    words = [sys.executable, "-c", _LOGITS, *(str(tmp_path / name) for name in ("m", "x.npy", "y.npy"))]
    subprocess.run(words, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert np.array_equal(np.load(tmp_path / "y.npy"), model.head.decision_function(features))


def test_writing_a_model_replaces_an_old_model_only_on_request(tmp_path: Path) -> None:
    place = tmp_path / "m"
    write_tuned(place)
    first = load_model(place).backbone.weights_digest
    other = changed_backbone(seed=1)
    with pytest.raises(UsageError, match="is a model already; name another place, or replace it with --force"):
        write_tuned(place, other)
    assert load_model(place).backbone.weights_digest == first
    write_tuned(place, other, force=True)
    assert load_model(place).backbone.weights_digest != first
    assert os.listdir(tmp_path) == ["m"]


def test_writing_a_model_never_replaces_a_path_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    write_tuned(tmp_path / "with more")
    (tmp_path / "with more" / "notes.txt").write_bytes(b"x")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for name, why in (
        ("file", "is no model folder"),
        ("pictures", "is a folder with other files"),
        ("link", "is no model folder"),
        ("with more", "holds 'notes.txt', which is no part of a model"),
        ("no/m", "there is no folder"),
    ):
        with pytest.raises(UsageError, match=why):
            write_tuned(tmp_path / name, force=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "empty").mkdir()
    write_tuned(tmp_path / "empty")
    assert is_model(tmp_path / "empty")


@pytest.mark.parametrize("swaps", [True, False])
def test_failed_write_of_a_model_keeps_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    place = tmp_path / "m"
    write_tuned(place)
    first = load_model(place).backbone.weights_digest
    if not swaps:
        monkeypatch.setattr(model_folder, "_swapped", lambda one, other: False)
    sync, seen = os.fsync, list[int]()

    def fails(handle: int) -> None:
        seen.append(handle)
        if len(seen) == 3:
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(OSError, match="No space left"):
            write_tuned(place, changed_backbone(seed=1), force=True)
    assert load_model(place).backbone.weights_digest == first
    assert os.listdir(tmp_path) == ["m"]
    write_tuned(place, changed_backbone(seed=1), force=True)
    assert load_model(place).backbone.weights_digest != first
    assert os.listdir(tmp_path) == ["m"]


def test_name_of_a_model_may_have_as_many_bytes_as_the_disk_allows(tmp_path: Path) -> None:
    with model_folder.new_folder(tmp_path / ("\N{ANT}" * 63)) as folder:
        assert len(os.fsencode(folder.name)) < 100
    assert [len(name) for name in os.listdir(tmp_path)] == [63]


def test_writing_a_model_removes_the_folders_of_killed_writers_and_nothing_else(tmp_path: Path) -> None:
    ours, foreign = ".m.0123456789ab.tmp", ".m.0123456789ac.tmp"
    for name, file in ((ours, ".weights.safetensors.0123456789ab.tmp"), (foreign, "notes.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("x")
    only_copy = tmp_path / ".m.0123456789ad.tmp.before"
    write_tuned(only_copy)
    other = tmp_path / ".m2.0123456789ab.tmp"
    other.mkdir()
    write_tuned(tmp_path / "m")
    assert not (tmp_path / ours).exists()
    assert all(path.exists() for path in (tmp_path / foreign / "notes.txt", only_copy, other))
    write_tuned(tmp_path / "m", force=True)
    assert not only_copy.exists()


def test_head_in_a_model_records_the_decoder_of_its_training_pictures(tmp_path: Path) -> None:
    backbone = changed_backbone()
    head = random_head(backbone.dimension, ["ant", "bee"])
    write_model(tmp_path / "m", backbone, head, {}, decoder="pillow-torch")
    loaded = load_model(tmp_path / "m")
    assert loaded.head.identity["decoder"] == "pillow-torch"
    assert loaded.head.fingerprint == tuned_identity(loaded.backbone, "pillow-torch").fingerprint


def test_writing_a_model_rejects_a_head_that_does_not_fit_its_network(tmp_path: Path) -> None:
    backbone = changed_backbone()
    with pytest.raises(UsageError, match="a head of 7 values does not fit features of 1,024"):
        write_model(tmp_path / "m", backbone, random_head(7, ["a", "b"]), {})
    with torch.no_grad():
        next(backbone.module.parameters()).fill_(float("nan"))
    with pytest.raises(UsageError, match=r"hold NaN or infinity in conv1\.0\.weight"):
        write_tuned(tmp_path / "m", backbone)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [NETWORK, "squeezenet1_1"])
@pytest.mark.parametrize("classes", [["ant", "bee"], ["ant", "bee", "cow"]])
def test_weights_file_of_a_model_loads_into_the_original_network_class(
    tmp_path: Path, name: str, classes: list[str]
) -> None:
    backbone = changed_backbone(name, 64)
    head = random_head(backbone.dimension, classes)
    assert write_weights_only(tmp_path / "w.safetensors", backbone, head) == []
    network = models.get_model(name, num_classes=len(classes))
    network.load_state_dict(load_file(tmp_path / "w.safetensors"))
    network.eval()
    pictures = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        ours = head.predict_proba(backbone.module(pictures).numpy()) if name == NETWORK else None
        theirs = network(pictures).softmax(1).numpy()
    if ours is not None:
        # SqueezeNet applies ReLU and pooling after its classifier. Another test checks features of SqueezeNet.
        np.testing.assert_allclose(theirs, ours, atol=1e-3)
    resnet = models.resnet18(num_classes=len(classes))
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"conv1.weight\""):
        resnet.load_state_dict(load_file(tmp_path / "w.safetensors"))


def test_weights_file_has_no_classifier_if_the_network_cannot_hold_the_head(tmp_path: Path) -> None:
    place = tmp_path / "w.safetensors"
    mlp = random_head(1024, ["a", "b"], hidden=3)
    (note,) = write_weights_only(place, changed_backbone(), mlp)
    assert "without a classifier" in note
    assert not any(name.startswith("fc.") for name in load_file(place))
    cut = changed_backbone(layer="stage3")
    assert write_weights_only(place, cut, random_head(cut.dimension, ["a", "b"]))
    assert all(name.startswith(("conv1.", "stage2.", "stage3.")) for name in load_file(place))
    other = tmp_path / "a.head"
    other.write_bytes(b"x")
    with pytest.raises(UsageError, match=re.escape("exists and is no .safetensors file")):
        write_weights_only(other, cut)
    assert other.read_bytes() == b"x"


def test_model_folder_contains_the_training_record_as_json(tmp_path: Path) -> None:
    backbone = changed_backbone()
    record = {"loss": [float("nan"), np.float32(0.5)], "rows": np.arange(2), 3: (Path("x"), None, True)}
    write_model(tmp_path / "m", backbone, random_head(backbone.dimension, ["a", "b"]), record)
    assert load_model(tmp_path / "m").record == {"loss": [None, 0.5], "rows": [0, 1], "3": ["x", None, True]}


def test_description_too_large_to_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tuned(tmp_path / "m")
    monkeypatch.setattr(model_folder, "_LARGEST_DESCRIPTION", 500)
    with pytest.raises(UsageError, match=r"model\.json of a model may have 500 bytes, and would have"):
        write_tuned(tmp_path / "n")
    assert os.listdir(tmp_path) == ["m"]


def test_model_description_is_plain_json(tmp_path: Path) -> None:
    write_tuned(tmp_path / "m")
    value = json.loads((tmp_path / "m" / "model.json").read_text())
    assert (value["format"], value["architecture"], value["layer"]) == (1, NETWORK, "input of fc")
    assert (value["preprocessing"]["crop"], value["classes"]) == (32, ["ant", "bee"])
    assert set(value["files"]) == {"weights.safetensors", "model.head", "metrics.csv"}
