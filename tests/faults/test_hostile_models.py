"""Hostile model folders: each is refused with a message of one line, no code is run, and no other file is opened."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from featstore.artifacts.lineage import find_artifacts
from featstore.artifacts.model import head_of, load_model
from featstore.backbones.model_folder import load_model_backbone
from featstore.errors import DamagedError, FeatstoreError
from featstore.files import atomic, model_folder
from featstore.files.model_folder import DESCRIPTION, HEAD, WEIGHTS, record_of
from featstore.heads import save_head
from featstore.heads.headfile import LabelSetsHead
from featstore.heads.label_sets import LabelSetsModel
from featstore.stages.info import info
from featstore.text import printable
from tests.tuned import random_head, write_tuned

ATTACK = "\x1b]52;c;Y3VybA==\x07\x1b[2J"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    write_tuned(folder)
    return folder


@pytest.fixture
def model(intact: Path, tmp_path: Path) -> Path:
    shutil.copytree(intact, tmp_path / "m")
    return tmp_path / "m"


def reseal(model: Path, **changes: Any) -> None:
    """Change values of ``model.json``; make its checksum, and the recorded sizes and SHA-256 of other files, valid
    again.
    """
    value = json.loads((model / DESCRIPTION).read_text())
    del value["checksum"]
    if "files" not in changes:
        changes["files"] = {name: vars(record_of(model / name)) for name in value["files"]}
    atomic.write_json(model / DESCRIPTION, {**value, **changes})


def refused(work: Callable[[], object]) -> str:
    """Call ``work``, check that it raises an error that is printed as one line, and return its message."""
    with pytest.raises(FeatstoreError) as caught:
        work()
    message = str(caught.value)
    assert message == printable(message)
    return message


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS, HEAD, "metrics.csv"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_model_folder_with_a_link_pipe_or_folder_in_place_of_a_file_is_refused(
    model: Path, tmp_path: Path, name: str, kind: str
) -> None:
    part, outside = model / name, tmp_path / "outside"
    shutil.copy(part, outside)
    part.unlink()
    if kind == "link":
        part.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(part)
    elif kind == "folder":
        part.mkdir()
    else:
        part.symlink_to("/dev/zero")
    with pytest.raises((FeatstoreError, OSError)) as caught:
        info(model)
    assert str(part) in str(caught.value)
    if name == WEIGHTS:
        assert str(part) in refused(lambda: load_model_backbone(model))
    if name == HEAD:
        assert str(part) in refused(lambda: head_of(model))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", "package.module:function"),
        ("architecture", "this:that"),
        ("architecture", ATTACK),
        ("architecture", "../x"),
        ("architecture", "SHUFFLENET_V2_X0_5"),
        ("architecture", "resnet18"),
        ("architecture", 7),
        ("layer", "output of fc"),
        ("layer", f"output of {ATTACK}"),
        ("layer", "output of "),
        ("layer", "input of conv1"),
        ("pool", "avg"),
        ("pool", ATTACK),
        ("shape", [4]),
        ("shape", [1 << 70, -1]),
        ("dimension", 1 << 70),
        ("dimension", True),
        ("digest", "0" * 64),
        ("digest", "../" * 22),
        ("classes", ["ant"]),
        ("classes", ["ant", "ant"]),
        ("classes", ["ant", 7]),
        ("classes", ["ant", ATTACK]),
        ("transform_input", "yes"),
        ("preprocessing", {}),
        (
            "preprocessing",
            {"resize": 1, "crop": 1 << 70, "interpolation": "x", "antialias": True, "mean": 1, "std": []},
        ),
        ("record", []),
        ("files", {}),
        ("files", {"../../etc/passwd": {"bytes": 1, "sha256": "0"}}),
        ("files", {WEIGHTS: {"bytes": -1, "sha256": "0"}, HEAD: {"bytes": 1 << 62, "sha256": "0"}}),
        ("format", 2),
        ("format", None),
        ("more", 1),
    ],
)
def test_model_with_a_forged_description_is_refused(model: Path, name: str, value: Any) -> None:
    reseal(model, **{name: value})
    refused(lambda: load_model(model))


@pytest.mark.parametrize("value", [10**400, -1, "64", [64], None, True])
@pytest.mark.parametrize("name", ["crop", "mean", "std", "interpolation"])
def test_model_with_forged_preprocessing_is_refused(model: Path, name: str, value: Any) -> None:
    steps = json.loads((model / DESCRIPTION).read_text())["preprocessing"]
    odd = [value] * 2 if name == "mean" else [value] * 3 if name == "std" and value is not True else value
    reseal(model, preprocessing={**steps, name: odd})
    refused(lambda: load_model_backbone(model))


def test_model_with_nan_or_infinite_numbers_is_refused(model: Path) -> None:
    text = (model / DESCRIPTION).read_text()
    (model / DESCRIPTION).write_text(text.replace('"crop": 32', '"crop": NaN'))
    assert "not a JSON file that featstore wrote" in refused(lambda: load_model_backbone(model))


def test_loading_a_model_imports_no_module_named_in_its_description(
    model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("stranger:network", "stranger", "timm/stranger:network", "open_clip/stranger:x"):
        reseal(model, architecture=name)
        refused(lambda: load_model(model))
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "7", "[]", "{}", "", "\x00", '{"checksum": 1}'])
def test_model_with_deeply_nested_or_malformed_json_is_refused(model: Path, text: str) -> None:
    (model / DESCRIPTION).write_text(text)
    refused(lambda: load_model_backbone(model))
    refused(lambda: info(model))


def test_model_description_of_100_mib_is_not_read(model: Path) -> None:
    with open(model / DESCRIPTION, "r+b") as file:
        file.truncate(100 << 20)
    assert "are the most" in refused(lambda: load_model_backbone(model))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Return a function that changes the tensors of a weights file."""

    def work(file: Path) -> None:
        state = load_file(file)
        change(state)
        save_file(state, file)

    return work


def header(length: int, text: bytes) -> Callable[[Path], None]:
    """Return a function that writes a file with the header ``text``, the claimed header length ``length``, and no
    tensors.
    """
    return lambda file: file.write_bytes(struct.pack("<Q", length) + text) and None


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (tensors(lambda state: state.pop("conv1.0.weight")), r"it lacks conv1.0.weight"),
        (tensors(lambda state: state.update({ATTACK: torch.zeros(2)})), "has no"),
        (tensors(lambda state: state.update({"fc.weight": torch.zeros(2)})), "has no fc.weight"),
        (tensors(lambda state: state.update({"conv1.0.weight": torch.zeros(2)})), "size mismatch"),
        (tensors(lambda state: state["conv1.0.weight"].fill_(float("nan"))), "NaN or infinity in conv1.0.weight"),
        (tensors(lambda state: state["conv1.0.weight"].fill_(1)), "not those that model.json describes"),
        (
            tensors(lambda state: state.update({"conv1.0.weight": state["conv1.0.weight"].double()})),
            "is of torch.float64",
        ),
        (tensors(lambda state: state.update({"conv1.0.weight": state["conv1.0.weight"].int()})), "is of torch.int32"),
        (header(1 << 62, b"{}"), "not a readable safetensors file"),
        (header(2, b"{}"), "holds no state dict"),
        (header(100_000, b"[" * 100_000), "not a readable safetensors file"),
        (header(75, b'{"conv1.0.weight":{"dtype":"F32","shape":[1152921504606846976,8],"data_offs'), "not a readable"),
        (lambda file: file.write_bytes(b""), "not a readable safetensors file"),
        (lambda file: os.truncate(file, 10), "not a readable safetensors file"),
        (lambda file: os.truncate(file, 1 << 40), "are the most"),
        (lambda file: torch.save({"conv1.0.weight": torch.zeros(1)}, file), "not a readable safetensors file"),
    ],
)
def test_model_with_forged_weights_is_refused(model: Path, forge: Callable[[Path], Any], why: str) -> None:
    forge(model / WEIGHTS)
    size = (model / WEIGHTS).stat().st_size
    # A sparse file of a tebibyte would take minutes to hash.
    claimed = {"bytes": size, "sha256": "0"} if size > 1 << 30 else vars(record_of(model / WEIGHTS))
    reseal(model, files={WEIGHTS: claimed, HEAD: vars(record_of(model / HEAD))})
    assert why in refused(lambda: load_model_backbone(model))


def test_model_with_changed_or_missing_parts_is_refused(model: Path) -> None:
    data = bytearray((model / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (model / WEIGHTS).write_bytes(data)
    assert "does not match the SHA-256" in refused(lambda: load_model_backbone(model))
    (model / WEIGHTS).write_bytes(data[:-4])
    assert "copy the model again" in refused(lambda: load_model_backbone(model))
    (model / HEAD).unlink()
    assert "model.head: is missing" in refused(lambda: head_of(model))
    assert "model.head: is missing" in refused(lambda: info(model))
    (model / DESCRIPTION).unlink()
    assert "is no model folder" in refused(lambda: load_model_backbone(model))


def test_model_with_the_head_of_another_network_is_refused(model: Path) -> None:
    save_head(model / HEAD, random_head(1024, ["ant", "bee"]))
    reseal(model)
    assert "is not the head that model.json describes" in refused(lambda: load_model(model))
    save_head(model / HEAD, random_head(8, ["ant", "bee", "cow"]))
    reseal(model)
    refused(lambda: load_model(model))


def test_model_with_a_head_that_predicts_label_sets_is_refused(model: Path) -> None:
    old = load_model(model).head
    sets = LabelSetsModel(np.zeros((2, old.dimension)), np.zeros(2), np.full(2, 0.5))
    save_head(model / HEAD, LabelSetsHead(old.kind, old.classes, sets, old.fingerprint, old.identity, old.meta))
    reseal(model)
    assert "is not the head that model.json describes" in refused(lambda: head_of(model))


def test_listing_the_artifacts_of_a_folder_reports_damaged_models_and_continues(model: Path, intact: Path) -> None:
    (model / DESCRIPTION).write_text("[" * 100_000)
    (model / "sub").mkdir()
    shutil.copytree(intact, model.parent / "other")
    found = find_artifacts(model.parent)
    assert [each.path.name for each in found.artifacts] == ["other"]
    assert len(found.unread) == 1
    assert str(model) in found.unread[0]


def test_error_messages_contain_no_control_characters_from_a_model(model: Path) -> None:
    reseal(model, record={"note": ATTACK, "deep": [[ATTACK]]})
    from featstore.cli.info import _model_text
    from featstore.cli.output import all_printable

    text = _model_text(all_printable(info(model)))
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b" in text


def test_pickle_in_place_of_a_model_part_is_never_loaded(model: Path) -> None:
    for name in (WEIGHTS, HEAD):
        np.save(model / "x.npy", np.array([{}], object), allow_pickle=True)
        shutil.move(model / "x.npy", model / name)
    with pytest.raises(DamagedError):
        load_model(model)
    assert model_folder.is_model(model)
