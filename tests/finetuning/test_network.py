"""Training of a partly frozen network: frozen tensors stay bit-identical, all others equal those of a PyTorch loop."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from featstore.finetuning.network import (
    Standardise,
    TunedNetwork,
    auxiliary_classifier,
    head_from_model,
    model_from_head,
    parameter_groups,
    set_trainable,
    trained_parameters,
)
from featstore.finetuning.partition import frozen_names, split_at
from featstore.heads.models import LinearModel
from featstore.heads.network import NetworkModel
from tests.finetuning.plain import (
    CLASSES,
    COURSES,
    backbone_of,
    by_hand,
    divided,
    greatest_difference,
    pictures_of,
    steps,
    stored,
)

SLOW = {"vgg16", "inception_v3", "vit_b_16", "resnet50"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in COURSES]


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers."""
    return copy.deepcopy(dict([*network.named_parameters(), *network.named_buffers()]))


def changed(before: dict[str, Tensor], network: nn.Module) -> set[str]:
    """Return the names of the parameters and buffers that are not bit-identical to those in ``before``."""
    after = tensors(network)
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("name", NAMES)
def test_frozen_parameters_and_buffers_stay_bit_identical_in_training(name: str) -> None:
    backbone, partition, _ = divided(name)
    pictures, codes = pictures_of(name, 4)
    head = nn.Linear(backbone.dimension, CLASSES)
    network = TunedNetwork(partition, head, auxiliary_classifier(partition, CLASSES, 0), partition.trunk)
    before = tensors(backbone.module)
    steps(network.train(), pictures, codes, 2, 4, torch.optim.SGD, 0.01)
    moved = changed(before, backbone.module)
    assert moved == before.keys() - frozen_names(backbone, COURSES[name].layer)
    assert not partition.trunk.training


@pytest.mark.slow
def test_training_on_cached_activations_equals_a_plain_pytorch_loop() -> None:
    name = "efficientnet_lite0"
    pictures, codes = pictures_of(name, 40)
    plain = by_hand(name)
    steps(plain, pictures, codes, 50, 16, torch.optim.AdamW, 1e-4)
    backbone, partition, network = divided(name)
    steps(network.train(), stored(partition.trunk, pictures, 20), codes, 50, 16, torch.optim.AdamW, 1e-4)
    assert trained_parameters(network) == trained_parameters(plain)
    assert max(greatest_difference(name, network, backbone, plain).values()) <= 1e-5


def test_layers_are_unfrozen_one_after_the_other() -> None:
    backbone, partition, network = divided("efficientnet_lite0", "_blocks.13")
    pictures, codes = pictures_of("efficientnet_lite0", 4)
    activations = stored(partition.trunk, pictures, 4)
    counts = []
    for layer in ("_conv_head", "_blocks.14", "_blocks.13"):
        frozen = frozen_names(backbone, layer)
        set_trainable(network, partition, frozen)
        before = tensors(backbone.module)
        steps(network.train(), activations, codes, 2, 4, torch.optim.SGD, 0.1)
        assert changed(before, backbone.module) == before.keys() - frozen
        counts.append(trained_parameters(network))
    assert counts == sorted(set(counts))
    # Unfrozen layers are frozen again if the new set of frozen layers contains them.
    set_trainable(network, partition, frozen_names(backbone, backbone.layer))
    assert trained_parameters(network) == trained_parameters(network.head)


def modes(network: TunedNetwork, kind: type[nn.Module]) -> list[bool]:
    """Return, for each module of class ``kind`` in the tail, whether the module is in train mode."""
    return [network.tail.get_submodule(str(node.target)).training for node in calls(network, kind)]


def calls(network: TunedNetwork, kind: type[nn.Module]) -> list[torch.fx.Node]:
    return [
        node
        for node in network.tail.graph.nodes
        if node.op == "call_module" and isinstance(network.tail.get_submodule(str(node.target)), kind)
    ]


def test_dropout_of_the_original_network_is_active_only_in_trained_layers() -> None:
    backbone, partition, network = divided("efficientnet_b0", "block4")
    assert len(modes(network.train(), StochasticDepth)) == 5
    assert all(modes(network, StochasticDepth))
    assert modes(network, nn.Dropout) == [True]
    # The last frozen block ends with the second stochastic depth.
    set_trainable(network, partition, frozen_names(backbone, "block5"))
    assert modes(network.train(), StochasticDepth) == [False, False, True, True, True]
    assert modes(network, nn.Dropout) == [True]
    # The classifier's dropout comes after the last frozen layer.
    set_trainable(network, partition, frozen_names(backbone, "features"))
    assert modes(network.train(), StochasticDepth) == [False] * 5
    assert modes(network, nn.Dropout) == [True]
    assert not any(modes(network.eval(), nn.Dropout))


@pytest.mark.slow
def test_dropout_between_frozen_layers_of_vgg_is_inactive() -> None:
    backbone, partition, network = divided("vgg16", "block5_pool")
    assert modes(network.train(), nn.Dropout) == [True, True]
    set_trainable(network, partition, frozen_names(backbone, "classifier.0"))
    assert modes(network, nn.Dropout) == [True, True]
    set_trainable(network, partition, frozen_names(backbone, "classifier.3"))
    assert modes(network, nn.Dropout) == [False, True]


@pytest.mark.slow
def test_auxiliary_classifier_is_kept_if_its_input_layer_is_trained() -> None:
    backbone = backbone_of("inception_v3")
    partition = split_at(backbone, "mixed6")
    auxiliary = auxiliary_classifier(partition, CLASSES, 0)
    again = auxiliary_classifier(partition, CLASSES, 0)
    assert all(torch.equal(each, other) for each, other in zip(auxiliary.parameters(), again.parameters(), strict=True))
    network = TunedNetwork(partition, nn.Linear(2048, CLASSES), auxiliary)
    activations = torch.randn(2, *partition.shape)
    logits, others = network.train()(activations)
    assert logits.shape == others.shape == (2, CLASSES)
    assert network.eval()(activations).shape == (2, CLASSES)
    assert not any("Aux" in name for name, _ in backbone.module.named_parameters())
    assert auxiliary_classifier(split_at(backbone, "mixed7"), CLASSES, 0) is None
    assert auxiliary_classifier(split_at(backbone, backbone.layer), CLASSES, 0) is None


def linear_model(classes: int, scale: float) -> LinearModel:
    random = np.random.default_rng(classes)
    outputs = 1 if classes == 2 else classes
    return LinearModel(random.standard_normal((outputs, 9)), random.standard_normal(outputs), scale)


def network_model(classes: int, scale: float) -> NetworkModel:
    random = np.random.default_rng(classes)
    widths = [9, 7, 5, 1 if classes == 2 else classes]
    weights = [random.standard_normal((after, before)) for before, after in itertools.pairwise(widths)]
    biases = [random.standard_normal(width) for width in widths[1:]]
    return NetworkModel(
        tuple(weight.astype(np.float32) for weight in weights),
        tuple(bias.astype(np.float32) for bias in biases),
        random.standard_normal(9),
        random.uniform(0.1, 3.0, 9),
        scale,
    )


@pytest.mark.parametrize("made", [linear_model, network_model])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_torch_head_gives_the_probabilities_of_the_converted_head(made, classes: int, scale: float) -> None:
    model = made(classes, scale)
    features = np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    head = head_from_model(model, dropout=0.5).eval()
    with torch.no_grad():
        logits = head(torch.from_numpy(features)).numpy()
    assert logits.shape == (20, 1 if classes == 2 else classes)
    np.testing.assert_allclose(logits, scale * model.decide_block(features), rtol=1e-3, atol=1e-3)
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    head.train()(torch.from_numpy(features)).square().sum().backward()
    optimiser.step()
    trained = model_from_head(head.eval())
    assert (type(trained), trained.classes, trained.dimension) == (type(model), classes, 9)
    with torch.no_grad():
        after = head(torch.from_numpy(features)).numpy()
    assert np.abs(after - logits).max() > 0.1
    np.testing.assert_allclose(trained.decide_block(features), after, rtol=1e-3, atol=1e-3 * np.abs(after).max())


@pytest.mark.parametrize("made", [linear_model, network_model])
def test_conversion_of_a_head_to_torch_and_back_is_lossless(made) -> None:
    once = model_from_head(head_from_model(made(4, 1.0)))
    again = model_from_head(head_from_model(once))
    for name, array in once.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name], err_msg=name)
        np.testing.assert_array_equal(
            np.asarray(array, np.float32), np.asarray(made(4, 1.0).arrays()[name], np.float32), err_msg=name
        )


def test_standardisation_of_the_mlp_head_is_not_trained() -> None:
    head = head_from_model(network_model(4, 1.0), dropout=0.3)
    assert isinstance(head[0], Standardise)
    assert len(list(head[0].parameters())) == 0
    assert [module.p for module in head.modules() if isinstance(module, nn.Dropout)] == [0.3, 0.3]


def test_learning_rate_decreases_with_the_distance_from_the_head() -> None:
    _, partition, network = divided("efficientnet_lite0", "_blocks.13")
    groups = parameter_groups(network, partition, 0.1, 0.5, 0.01)
    named = {name: group for group in groups for name in group["names"]}
    assert named.keys() == dict(network.named_parameters()).keys()
    rates = {name: named[name]["lr"] for name in ("head.weight", "tail._conv_head.weight", "tail._bn1.weight")}
    assert rates == {"head.weight": 0.1, "tail._conv_head.weight": 0.05, "tail._bn1.weight": 0.05}
    assert named["tail._blocks.15._bn0.bias"]["lr"] == 0.025
    assert named["tail._blocks.14._bn0.bias"]["lr"] == 0.0125
    decays = {name: group["weight_decay"] for name, group in named.items()}
    assert {name for name, decay in decays.items() if decay == 0.01} == {
        name for name, parameter in network.named_parameters() if parameter.ndim > 1
    }
    assert set(decays.values()) == {0.0, 0.01}
    without_decay = parameter_groups(network, partition, 0.1, 1.0, 0.0)
    assert sorted(name for group in without_decay for name in group["names"]) == sorted(named)
    assert {group["lr"] for group in without_decay} == {0.1}
    torch.optim.AdamW(groups)
