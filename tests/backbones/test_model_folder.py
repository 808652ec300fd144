"""The backbone in a model folder: written and loaded again, it gives bit-identical features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from featstore.backbones import Backbone, load_backbone, names_model
from featstore.backbones.layers import take
from featstore.backbones.model_folder import load_model_backbone, require_rebuildable
from featstore.backbones.open import load_recorded
from featstore.embed.recipe import of_backbone
from featstore.errors import IdentityError, UsageError
from tests.made import tiny_backbone
from tests.tuned import NETWORK, changed_backbone, write_tuned


def features(backbone: Backbone) -> torch.Tensor:
    side = backbone.preprocessing.crop
    with torch.inference_mode():
        made: torch.Tensor = backbone.module(torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)))
    return made


def same_after_loading(backbone: Backbone, folder: Path) -> Backbone:
    """Write ``backbone`` to a model folder, load it again, check that both give the same features, and return it."""
    written = write_tuned(folder, backbone).backbone
    loaded = load_model_backbone(folder)
    assert of_backbone(loaded) == of_backbone(written)
    assert torch.equal(features(loaded), features(backbone))
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())
    return loaded


# Special cases: RegNet is built on the CPU, not on the meta device. SqueezeNet's classifier is a convolution. MNASNet
# converts weights by a version number, which a safetensors file does not have.
@pytest.mark.parametrize("name", [NETWORK, "regnet_y_400mf", "squeezenet1_1", "mnasnet0_5", "mobilenet_v3_small"])
def test_backbone_loaded_from_a_model_gives_bit_identical_features(tmp_path: Path, name: str) -> None:
    backbone = changed_backbone(name, 64)
    loaded = same_after_loading(backbone, tmp_path / "m")
    assert (loaded.name, loaded.layer, loaded.weights) == (name, backbone.layer, str(tmp_path / "m"))
    assert loaded.weights_digest != backbone.weights_digest


def test_untrained_backbone_in_a_model_keeps_its_weights_digest(tmp_path: Path) -> None:
    backbone = load_backbone(NETWORK, "random:3")
    assert same_after_loading(backbone, tmp_path / "m").weights_digest == backbone.weights_digest


@pytest.mark.parametrize(("layer", "pool"), [("stage3", "avg"), ("stage2.0", "max"), ("stage4", "none")])
def test_model_of_an_inner_layer_loads_as_a_backbone_of_this_layer(tmp_path: Path, layer: str, pool: str) -> None:
    loaded = same_after_loading(take(changed_backbone(), layer, pool), tmp_path / "m")
    assert (loaded.layer, loaded.pool) == (f"output of {layer}", pool)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [None, "inception3b"])
def test_googlenet_in_a_model_keeps_the_option_transform_input(tmp_path: Path, layer: str | None) -> None:
    # With random weights, transform_input is False; with trained weights it is True.
    backbone = changed_backbone("googlenet", 64, layer)
    again = same_after_loading(backbone, tmp_path / "m")
    same_after_loading(again, tmp_path / "again")


@pytest.mark.slow
def test_vision_transformer_in_a_model_keeps_its_picture_size(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    backbone = changed_backbone("timm/vit_tiny_patch16_224", 96)
    assert same_after_loading(backbone, tmp_path / "m").preprocessing.crop == 96


def test_model_folder_is_usable_as_backbone_and_as_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = write_tuned("m").backbone
    for loaded in (load_backbone("m"), load_backbone("./m"), load_backbone(NETWORK, "m"), load_recorded(NETWORK, "m")):
        assert of_backbone(loaded) == of_backbone(written)
    with pytest.raises(UsageError, match="m: is a model, which holds its weights"):
        load_backbone("m", "random:0")
    with pytest.raises(IdentityError, match=f"m: is a model of {NETWORK}, not resnet18"):
        load_backbone("resnet18", "m")


def test_backbone_name_takes_precedence_over_a_model_folder_of_this_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_tuned("resnet18")
    assert not names_model("resnet18")
    assert names_model("./resnet18")
    assert load_backbone("resnet18", "random:0").name == "resnet18"
    assert load_backbone("./resnet18").name == NETWORK


def test_network_defined_by_the_user_cannot_be_written_as_a_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tiny: comes from your own function"):
        require_rebuildable(tiny_backbone())
    with pytest.raises(UsageError, match="holds no code"):
        write_tuned(tmp_path / "m", tiny_backbone())
    assert not list(tmp_path.iterdir())


def test_weights_of_a_model_are_refused_by_another_network(tmp_path: Path) -> None:
    write_tuned(tmp_path / "m")
    file = str(tmp_path / "m" / "weights.safetensors")
    assert load_backbone(NETWORK, file).weights_digest == load_model_backbone(tmp_path / "m").weights_digest
    with pytest.raises(UsageError, match=r"does not fit resnet18: it lacks conv1\.weight and .* more"):
        load_backbone("resnet18", file)
    with pytest.raises(UsageError, match=r"does not fit shufflenet_v2_x1_0: size mismatch for stage2\.0\.branch1"):
        load_backbone("shufflenet_v2_x1_0", file)
