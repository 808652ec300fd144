"""A backbone divided into trunk and tail computes the same features, and no cut through parallel paths is accepted."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from featstore.backbones import Backbone, architectures, load_backbone
from featstore.backbones.layers import take
from featstore.decode import Preprocessing
from featstore.errors import UsageError
from featstore.finetuning.partition import (
    cut_at_or_before,
    cut_before,
    frozen_before,
    frozen_names,
    last_blocks,
    split_at,
)
from tests.finetuning.plain import COURSES, backbone_of, by_hand, pictures_of
from tests.made import tiny_backbone

LAYERS = {
    "resnet50": ["conv1", "layer2.1"],
    "vgg16": ["block5_conv3", "classifier.0"],
    "mobilenet_v2": ["features.0.1", "features.17"],
    "inception_v3": ["maxpool2", "mixed7"],
    "efficientnet_b0": ["features.0", "avgpool"],
    "efficientnet_lite0": ["_pad", "_blocks.15"],
    "vit_b_16": ["encoder.dropout", "encoder.ln"],
}
"""Layers after which the networks are divided, in addition to those of COURSES."""
SLOW = {"vgg16", "inception_v3", "vit_b_16", "resnet50"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in COURSES]


def without_values(name: str) -> Backbone:
    """Return the backbone ``name`` without memory for its weights, for tests of names and counts."""
    architecture = architectures.find(name)
    network = architecture.empty(architecture.default)
    classifier, dimension = architecture.cut(network)
    preprocessing = architecture.default.preprocessing
    return Backbone(name, f"input of {classifier}", dimension, "random:0", "", preprocessing, network)


def count(backbone: Backbone, names: frozenset[str]) -> int:
    """Return how many parameter values of ``backbone`` belong to parameters that are not in ``names``."""
    return sum(each.numel() for name, each in backbone.module.named_parameters() if name not in names)


@pytest.mark.parametrize("name", NAMES)
def test_trunk_followed_by_tail_equals_the_whole_backbone_bit_for_bit(name: str) -> None:
    backbone = backbone_of(name)
    pictures, _ = pictures_of(name, 2)
    with torch.inference_mode():
        features = backbone.module(pictures)
        assert features.std() > 1e-3
        for layer in [COURSES[name].layer, *LAYERS[name], "", backbone.layer]:
            partition = split_at(backbone, layer)
            activations = partition.trunk(pictures)
            assert activations.shape[1:] == partition.shape, layer
            assert torch.equal(partition.tail(activations), features), layer
            assert torch.equal(activations, partition.trunk(pictures)), layer


@pytest.mark.parametrize("name", NAMES)
def test_number_of_frozen_parameters_equals_that_in_course_code(name: str) -> None:
    backbone = backbone_of(name)
    frozen = frozen_names(backbone, COURSES[name].layer)
    tail = split_at(backbone, COURSES[name].layer).tail
    by_requires_grad = {key: each for key, each in by_hand(name).named_parameters() if not each.requires_grad}
    assert {key for key, _ in backbone.module.named_parameters() if key in frozen} == by_requires_grad.keys()
    assert {key for key, _ in tail.named_parameters()} == dict(backbone.module.named_parameters()).keys() - frozen
    assert not frozen & {key for key, _ in [*tail.named_parameters(), *tail.named_buffers()]}


def test_number_of_trainable_parameters_equals_that_printed_by_keras() -> None:
    # The TensorFlow tutorial "Transfer learning and fine-tuning": MobileNetV2 with layers[:100] frozen and a head with
    # 1,281 parameters.
    mobilenet = without_values("mobilenet_v2")
    assert count(mobilenet, frozenset()) == 2_223_872
    assert count(mobilenet, frozen_before(mobilenet, "block_11_depthwise")) + 1281 == 1_862_721
    # An example in Chollet's "Deep Learning with Python": the convolutional base of VGG16, in which only block5 is
    # trained.
    vgg = without_values("vgg16")
    convolutions = {name for name, _ in vgg.module.named_parameters() if name.startswith("features.")}
    assert count(vgg, frozen_names(vgg, "block4_pool")) - count(vgg, frozen_names(vgg, "block5_pool")) == 7_079_424
    assert sum(vgg.module.get_parameter(name).numel() for name in convolutions) == 14_714_688
    efficientnet = without_values("efficientnet_b0")
    assert count(efficientnet, frozenset()) == 4_007_548


def test_network_cannot_be_divided_inside_a_residual_block() -> None:
    backbone = without_values("mobilenet_v2")
    frozen = frozen_names(backbone, "block_12_project")
    assert {"features.13.conv.2.weight", "features.13.conv.1.1.running_var"} <= frozen
    assert not {"features.13.conv.3.weight", "features.14.conv.0.0.weight"} & frozen
    assert frozen_before(backbone, "block_12_project") == frozen - {"features.13.conv.2.weight"}
    with pytest.raises(UsageError, match=r"parallel paths.*take features\.12 or features\.13$") as error:
        split_at(backbone, "features[13].conv[2]")
    assert "\n" not in str(error.value)
    assert cut_at_or_before(backbone, "block_12_project") == "features.12"
    assert cut_at_or_before(backbone, "block_12") == "features.13"
    assert cut_before(backbone, "block_12") == "features.12"
    assert cut_before(backbone, "Conv1") == ""


def test_parameter_groups_follow_the_order_of_computation() -> None:
    partition = split_at(without_values("resnet50"), "layer3")
    assert partition.blocks == ("layer4.0", "layer4.1", "layer4.2", "layer4")
    assert [{name.rsplit(".", 2)[0].split(".downsample")[0] for name in group} for group in partition.groups] == [
        {"layer4.0"},
        {"layer4.1"},
        {"layer4.2"},
    ]
    whole = split_at(without_values("vit_b_16"), "")
    # Class token and position embedding are first used after conv_proj. The last layer norm forms no group of its own.
    assert set(whole.groups[0]) == {"conv_proj.weight", "conv_proj.bias", "class_token", "encoder.pos_embedding"}
    assert {"encoder.ln.weight", "encoder.layers.encoder_layer_11.mlp.3.weight"} <= set(whole.groups[-1])
    assert len(whole.groups) == 13
    assert sorted(name for group in whole.groups for name in group) == sorted(
        name for name, _ in without_values("vit_b_16").module.named_parameters()
    )


def test_swin_network_with_channels_last_is_divided_without_transposing() -> None:
    backbone = load_backbone("swin_t", "random:0")
    partition = split_at(backbone, "features.5")
    pictures = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        activations = partition.trunk(pictures)
        assert partition.shape == activations.shape[1:] == (384, 14, 14)
        assert torch.equal(activations.flatten(1), take(backbone, "features.5", "none").module(pictures))
        assert torch.equal(partition.tail(activations), backbone.module(pictures))


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/vit_tiny_patch16_224", "timm/efficientnet_b0"])
def test_timm_networks_can_be_divided_into_trunk_and_tail(name: str) -> None:
    pytest.importorskip("timm")
    backbone = load_backbone(name, "random:0")
    blocks = split_at(backbone, "").blocks
    partition = split_at(backbone, blocks[len(blocks) // 2])
    pictures = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(partition.tail(partition.trunk(pictures)), backbone.module(pictures))


class Untraceable(nn.Module):
    """A network that torch.fx cannot trace, because it contains an ``if`` on tensor values."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x).mean((2, 3)) if x.sum() > 1e9 else self.first(x).amax((2, 3))


class Tied(nn.Module):
    """A network that uses one convolution before the layer ``middle`` and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(self.middle(self.first(x)))).flatten(1)


def made_up(module: nn.Module, dimension: int) -> Backbone:
    module.eval().requires_grad_(False)
    return Backbone("made-up", "input of head", dimension, "random:0", "", Preprocessing(4, 4), module)


def test_untraceable_network_cannot_be_divided_at_an_inner_layer() -> None:
    backbone = made_up(Untraceable(), 4)
    whole = split_at(backbone, "")
    assert (whole.tail, whole.shape, whole.blocks) == (backbone.module, (3, 4, 4), ())
    assert whole.groups == (("first.weight", "first.bias"),)
    assert split_at(backbone, "head").trunk is backbone.module
    for refused in (split_at, frozen_names, frozen_before, cut_before):
        with pytest.raises(UsageError, match=r"torch.fx cannot trace made-up.*leave the layer out") as error:
            refused(backbone, "first")
        assert "\n" not in str(error.value)


def test_network_cannot_be_divided_between_two_layers_that_share_parameters() -> None:
    backbone = made_up(Tied(), 32)
    with pytest.raises(UsageError, match="last"):
        split_at(backbone, "middle")
    assert cut_at_or_before(backbone, "middle") == ""


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("block_12_projekt", "no layer 'block_12_projekt'; did you mean 'block_12_project'"),
        ("features.99.convs", "no layer 'features.99.convs'"),
        ("features.5.conv.0.9", "no layer"),
        ("block5_conv3", "no layer 'block5_conv3'"),
    ],
)
def test_error_for_an_unknown_layer_suggests_similar_names(layer: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        split_at(without_values("mobilenet_v2"), layer)
    assert "\n" not in str(error.value)


def test_network_cannot_be_divided_at_a_layer_that_runs_repeatedly() -> None:
    with pytest.raises(UsageError, match="does not give one vector"):
        split_at(without_values("resnet50"), "layer3.0.relu")


def test_freezing_up_to_the_last_layer_trains_only_the_head() -> None:
    backbone = without_values("mobilenet_v2")
    everything = {name for name, _ in [*backbone.module.named_parameters(), *backbone.module.named_buffers()]}
    for name in ("classifier.1", "input of classifier.1"):
        partition = split_at(backbone, name)
        assert (partition.shape, type(partition.tail), partition.groups) == ((1280,), nn.Identity, ())
        assert frozen_names(backbone, name) == frozen_before(backbone, name) == everything
        assert cut_at_or_before(backbone, name) == cut_before(backbone, name) == name
    assert frozen_names(backbone, "features") == everything
    assert frozen_names(backbone, "") == frozenset()


def test_backbone_that_ends_at_an_inner_layer_can_be_divided() -> None:
    backbone = take(tiny_backbone(), "1", "avg")
    partition = split_at(backbone, "0")
    pictures = torch.randn(2, 3, 16, 16)
    assert torch.equal(partition.tail(partition.trunk(pictures)), backbone.module(pictures))


def test_tail_shares_its_parameters_with_the_backbone() -> None:
    backbone = tiny_backbone()
    before = copy.deepcopy(backbone.module.state_dict())
    partition = split_at(backbone, "")
    with torch.no_grad():
        for parameter in partition.tail.parameters():
            parameter.add_(1.0)
    after = backbone.module.state_dict()
    assert all(torch.equal(after[name], before[name] + 1.0) for name, _ in backbone.module.named_parameters())


def test_last_blocks_lists_blocks_from_the_last_one_and_never_lists_the_first_one():
    assert last_blocks(load_backbone("resnet50", "random:0"), 3) == ("layer4.2", "layer4.1", "layer4.0")
    squeezenet = load_backbone("squeezenet1_1", "random:0")
    everything = last_blocks(squeezenet, 99)
    assert everything[:2] == ("features.12", "features.11")
    assert len(everything) == len(split_at(squeezenet, "").groups) - 1
    for block in everything:
        assert cut_before(squeezenet, block)
