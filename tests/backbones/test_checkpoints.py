from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from featstore.backbones import load_backbone
from featstore.backbones.checkpoints import read_state
from featstore.errors import UsageError

State = dict[str, torch.Tensor]


def made(name: str = "mobilenet_v3_small", seed: int = 5, **options: Any) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return models.get_model(name, weights=None, **options)


@pytest.fixture(scope="module")
def state() -> State:
    return made().state_dict()


@pytest.fixture(scope="module")
def digest() -> str:
    return load_backbone("mobilenet_v3_small", "random:5").weights_digest


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model_state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if not name.startswith("classifier.3")},
        lambda state: {name: value for name, value in state.items() if "num_batches_tracked" not in name},
        lambda state: {**state, "classifier.3.weight": torch.zeros(7, 1024), "classifier.3.bias": torch.zeros(7)},
    ],
)
def test_every_checkpoint_layout_gives_the_same_backbone(wrap: Any, state: State, digest: str, tmp_path: Path) -> None:
    torch.save(wrap(state), tmp_path / "mine.pth")
    backbone = load_backbone("mobilenet_v3_small", str(tmp_path / "mine.pth"))
    assert backbone.weights_digest == digest
    assert backbone.weights == "mine.pth"
    assert not any(parameter.is_meta for parameter in backbone.module.state_dict().values())


def test_safetensors_and_the_old_torch_format_give_the_same_digest(state: State, digest: str, tmp_path: Path) -> None:
    save_file(state, tmp_path / "mine.safetensors")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("mine.safetensors", "old.pt"):
        assert load_backbone("mobilenet_v3_small", str(tmp_path / name)).weights_digest == digest


@pytest.mark.parametrize("name", ["mnasnet0_5", "regnet_x_400mf", "shufflenet_v2_x0_5"])
def test_checkpoints_of_mnasnet_regnet_and_shufflenet_are_loaded(name: str, tmp_path: Path) -> None:
    save_file(made(name).state_dict(), tmp_path / "mine.safetensors")
    backbone = load_backbone(name, str(tmp_path / "mine.safetensors"))
    assert backbone.weights_digest == load_backbone(name, "random:5").weights_digest


def test_half_precision_weights_are_converted_to_float32(state: State, tmp_path: Path) -> None:
    torch.save(
        {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
        tmp_path / "half.pth",
    )
    module = load_backbone("mobilenet_v3_small", str(tmp_path / "half.pth")).module
    assert {value.dtype for value in module.parameters()} == {torch.float32}


def test_old_densenet_tensor_names_are_read(tmp_path: Path) -> None:
    import re

    state = made("densenet121").state_dict()
    old = OrderedDict(
        (re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name), value) for name, value in state.items()
    )
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    backbone = load_backbone("densenet121", str(tmp_path / "old.pth"))
    assert backbone.weights_digest == load_backbone("densenet121", "random:5").weights_digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("features.2")},
            "it lacks features.2.block.0.0.weight and",
        ),
        (lambda s: {**s, "extra.weight": torch.zeros(1)}, "mobilenet_v3_small has no extra.weight"),
        (lambda s: {**s, "features.0.0.weight": torch.zeros(16, 1, 3, 3)}, "size mismatch for features.0.0.weight"),
        (lambda s: {**s, "features.0.0.weight": "text"}, "features.0.0.weight' is no tensor"),
        (lambda s: {**s, "features.0.0.weight": s["features.0.0.weight"].to_sparse()}, "no plain tensor"),
        (lambda s: {**s, "features.0.0.weight": s["features.0.0.weight"] * torch.nan}, "NaN"),
        (lambda s: [1, 2], "no state dict"),
        (lambda s: {}, "no state dict"),
    ],
)
def test_checkpoints_that_do_not_fit_the_backbone_give_a_one_line_error(
    change: Any, words: str, state: State, tmp_path: Path
) -> None:
    torch.save(change(state), tmp_path / "mine.pth")
    with pytest.raises(UsageError) as error:
        load_backbone("mobilenet_v3_small", str(tmp_path / "mine.pth"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_error_suggests_the_backbone_that_fits_the_weights(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(
        UsageError, match="does not fit resnet18: it lacks .*as mobilenet_v3_small, so try --backbone mobile"
    ):
        load_backbone("resnet18", str(tmp_path / "mine.pth"))


class Payload:
    """An object whose unpickling makes the folder ``target``, like an attacker's code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    torch.save({"weight": Payload(target)}, tmp_path / "zip.pth")
    torch.save({"weight": Payload(target)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload(target)))
    (tmp_path / "named.safetensors").write_bytes(pickle.dumps(Payload(target)))
    for file in ("zip.pth", "old.pth", "bare.pth", "named.safetensors"):
        with pytest.raises(UsageError) as error:
            read_state(tmp_path / file)
        assert "\n" not in str(error.value)
    assert not target.exists()
    pickle.loads((tmp_path / "bare.pth").read_bytes())
    assert target.exists()  # Control: pickle itself does run the code in the file.


def test_checkpoint_tensor_larger_than_its_file_is_rejected(state: State, tmp_path: Path) -> None:
    huge = torch.zeros(1, dtype=torch.float16).expand(1 << 40)
    torch.save({**state, "features.0.0.weight": huge}, tmp_path / "mine.pth")
    with pytest.raises(UsageError, match=r"features\.0\.0\.weight claims more bytes"):
        load_backbone("mobilenet_v3_small", str(tmp_path / "mine.pth"))


def test_damaged_checkpoints_and_compressed_checkpoints_are_rejected(state: State, tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    torch.save(state, file)
    data = file.read_bytes()
    for name, content in {
        "half.pth": data[: len(data) // 2],
        "empty.pth": b"",
        "html.pth": b"<html>",
        "bad.safetensors": data[:999],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError) as error:
            read_state(tmp_path / name)
        assert "\n" not in str(error.value)
    with (
        zipfile.ZipFile(file) as stored,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as deflated,
    ):
        for member in stored.namelist():
            deflated.writestr(member, stored.read(member))
    with pytest.raises(UsageError, match="not a checkpoint that torch"):
        read_state(tmp_path / "small.pth")


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_weights_path_without_a_file_is_rejected(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such checkpoint"):
        read_state(tmp_path / name)
