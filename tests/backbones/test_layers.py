"""Outputs of inner layers as features: layers are listed, outputs are pooled, and later layers do not run."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from featstore.backbones import Backbone, architectures, base, list_backbones, load_backbone
from featstore.backbones.layers import layers_of, list_layers, resized, take
from featstore.backbones.tracing import until
from featstore.decode import Preprocessing
from featstore.embed.recipe import Request
from featstore.errors import FeatstoreError, UsageError
from tests.made import tiny_backbone

PICTURES = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32))


class Tokens(nn.Module):
    """A network like a vision transformer: it makes a map of patches, tokens (class token first), and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.class_token = nn.Parameter(torch.full((1, 1, 6), 0.5))
        self.mixed = nn.Linear(6, 6)
        self.turned = nn.Identity()
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        grid = self.patches(x)
        grid = self.turned(grid.permute(0, 2, 3, 1))
        tokens = torch.cat([self.class_token.expand(len(grid), -1, -1), grid.flatten(1, 2)], 1)
        return self.pair(self.mixed(tokens))[0][:, 0]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Untraceable(nn.Module):
    """A network that torch.fx cannot trace, because it contains an ``if`` on tensor values; its ReLU works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return y.mean((2, 3)) if x.sum() > 1e9 else y.amax((2, 3))


def backbone_of(module: nn.Module, dimension: int = 6) -> Backbone:
    module.eval().requires_grad_(False)
    return Backbone("made-up", "input of head", dimension, "random:0", "", Preprocessing(18, 16), module)


def test_layers_of_a_backbone_are_listed_without_weights() -> None:
    found = {layer.name: layer for layer in list_layers("resnet50")}
    assert found["layer3"].shape == (1024, 14, 14)
    assert found["avgpool"].shape == (2048, 1, 1)
    assert found["layer3.0"].kind == "Bottleneck"
    assert next(iter(found)) == "conv1"
    # Not listed: the classifier ("fc"), and a module that runs three times per picture ("layer3.0.relu").
    assert not {"fc", "layer3.0.relu", ""} & set(found)
    tokens = {layer.name: layer.shape for layer in list_layers("vit_b_32")}
    assert (tokens["conv_proj"], tokens["encoder.ln"]) == ((768, 7, 7), (50, 768))
    swin = {layer.name: layer for layer in list_layers("swin_t")}
    assert (swin["features.3"].shape, swin["features.3"].channels_last) == ((192, 28, 28), True)


@pytest.mark.slow
def test_every_backbone_family_has_layers_with_feature_maps() -> None:
    largest_first = sorted(list_backbones(), key=lambda info: -info.parameters)
    smallest = {re.sub(r"\d.*", "", info.name): info.name for info in largest_first}
    assert len(smallest) > 18
    for name in smallest.values():
        assert any(len(layer.shape) == 3 for layer in list_layers(name)), name


def test_feature_maps_and_tokens_are_pooled_by_each_method() -> None:
    module = Tokens()
    backbone = backbone_of(module)
    grid, tokens = module.patches(PICTURES), None
    hook = module.mixed.register_forward_hook(lambda _, __, output: expected.append(output))
    expected: list[Tensor] = []
    module(PICTURES)
    hook.remove()
    tokens = expected[0]
    cases = {
        ("patches", None): (grid.mean((2, 3)), "avg", ()),
        ("patches", "max"): (grid.amax((2, 3)), "max", ()),
        ("patches", "none"): (grid.flatten(1), "none", (6, 4, 4)),
        # The layer returns (height, width, channels); features are always (channels, height, width).
        ("turned", "none"): (grid.flatten(1), "none", (6, 4, 4)),
        ("mixed", "avg"): (tokens[:, 1:].mean(1), "avg", ()),
        ("mixed", "max"): (tokens[:, 1:].amax(1), "max", ()),
        ("mixed", "cls"): (tokens[:, 0], "cls", ()),
        ("mixed", "cls+mean"): (torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1), "cls+mean", ()),
        ("mixed", "none"): (tokens.flatten(1), "none", (17, 6)),
    }
    for (layer, pool), (features, kind, shape) in cases.items():
        taken = take(backbone, layer, pool)
        assert (taken.layer, taken.pool, taken.shape) == (f"output of {layer}", kind, shape)
        made = taken.module(PICTURES)
        assert made.shape == (2, taken.dimension)
        torch.testing.assert_close(made, features, rtol=0, atol=1e-6)
        assert taken.weights_digest == backbone.weights_digest
        assert take(taken, layer, pool) is taken


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("_block", "efficientnet_lite0 has no layer '_block'; did you mean '_blocks"),
        ("", "has no layer ''"),
        ("_fc", "is its classifier; without a layer, features are its input"),
    ],
)
def test_unknown_layer_is_reported_before_missing_weights(tmp_path: Path, layer: str, words: str) -> None:
    weights = str(tmp_path / "missing.pth")
    with pytest.raises(UsageError, match=words):
        Request(backbone="efficientnet_lite0", weights=weights, layer=layer).load(None, tmp_path / "s")
    with pytest.raises(FeatstoreError, match="missing.pth"):
        Request(backbone="efficientnet_lite0", weights=weights, layer="_blocks").load(None, tmp_path / "s")


def test_network_cut_after_a_layer_is_a_copy_without_the_later_layers() -> None:
    backbone = tiny_backbone()
    before = copy.deepcopy(backbone.module.state_dict())
    taken = take(backbone, "1", "max")
    assert sum(isinstance(module, nn.Conv2d) for module in taken.module.modules()) == 1
    assert backbone.module.state_dict().keys() == before.keys()
    assert backbone.module(PICTURES).shape == (2, 8)


def test_layer_features_work_if_torch_fx_cannot_trace_the_network() -> None:
    network = Untraceable()
    backbone = backbone_of(network, 4)
    taken = take(backbone, "first", "none")
    torch.testing.assert_close(taken.module(PICTURES), network.first(PICTURES).flatten(1), rtol=0, atol=0)


def test_class_token_of_the_last_vit_layer_equals_the_default_features() -> None:
    with torch.inference_mode():
        backbone = load_backbone("vit_b_32", "random:0")
        pictures = torch.zeros(1, 3, 224, 224)
        whole = backbone.module(pictures)
        assert torch.equal(take(backbone, "encoder.ln", "cls").module(pictures), whole)


@pytest.mark.parametrize(
    ("layer", "pool", "words"),
    [
        ("mixd", None, "no layer 'mixd'; did you mean 'mixed'"),
        ("nothing-like-it", None, "featstore backbones made-up"),
        ("", None, "no layer ''"),
        ("head", None, "is its classifier"),
        ("pair", None, "does not give one vector"),
        ("patches", "cls", r"map \(6, 4, 4\) without a class token"),
        ("patches", "cls+mean", "avg, max or none"),
    ],
)
def test_unknown_layers_and_unsuitable_pools_are_rejected(layer: str, pool: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        take(backbone_of(Tokens()), layer, pool)
    assert "\n" not in str(error.value)


def test_layer_rejects_a_pool_for_vectors_and_too_large_feature_maps() -> None:
    backbone = tiny_backbone()
    assert take(backbone, "4").dimension == 8
    with pytest.raises(UsageError, match="takes no pool"):
        take(backbone, "4", "none")
    with pytest.raises(UsageError, match="1,048,576 is the most"):
        take(resized(backbone, 900, None), "0", "none")


def test_backbone_rejects_input_sizes_that_its_network_does_not_support() -> None:
    backbone = tiny_backbone()
    larger = resized(backbone, 32, None)
    assert (larger.preprocessing.crop, larger.preprocessing.resize, larger.dimension) == (32, 36, 8)
    with pytest.raises(UsageError, match="does not take pictures of 2 x 2 pixels"):
        resized(backbone, 2, None)
    with pytest.raises(UsageError, match="vit_b_32 does not take pictures of 256 x 256 pixels"):
        resized(load_backbone("vit_b_32", "random:0"), 256, None)
    with pytest.raises(UsageError, match="size before the layer"):
        resized(take(backbone, "0", "none"), 32, None)


def test_network_cut_after_a_layer_returns_the_output_of_that_layer() -> None:
    for name in ("shufflenet_v2_x0_5", "mnasnet0_5"):
        architecture = architectures.find(name)
        network = architecture.initialised(0)
        base.cut(network)
        pictures = torch.zeros(2, 3, 64, 64)
        names = [each for each in layers_of(network, 64, name) if each]
        for layer in names[:: len(names) // 6]:
            seen: list[Tensor] = []
            hook = network.get_submodule(layer).register_forward_hook(
                lambda _, __, out, to=seen: to.append(out.clone())
            )
            with torch.inference_mode():
                network(pictures)
                hook.remove()
                assert torch.equal(until(network, layer)(pictures), seen[0]), (name, layer)
