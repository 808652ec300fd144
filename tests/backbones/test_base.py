from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from featstore.backbones import architectures, base
from featstore.errors import FeatstoreError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classifier", "dimension"),
    [
        ("alexnet", "classifier.6", 4096),
        ("convnext_tiny", "classifier.2", 768),
        ("densenet121", "classifier", 1024),
        ("efficientnet_b0", "classifier.1", 1280),
        ("efficientnet_lite0", "_fc", 1280),
        ("googlenet", "fc", 1024),
        ("inception_v3", "fc", 2048),
        ("maxvit_t", "classifier.5", 512),
        ("mnasnet0_5", "classifier.1", 1280),
        ("mobilenet_v2", "classifier.1", 1280),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("regnet_x_400mf", "fc", 400),
        ("resnet50", "fc", 2048),
        ("shufflenet_v2_x1_0", "fc", 1024),
        ("squeezenet1_1", "classifier.1", 512),
        ("swin_v2_t", "head", 768),
        ("vgg16", "classifier.6", 4096),
        ("vit_b_16", "heads.head", 768),
        ("vit_h_14", "heads.head", 1280),
    ],
)
def test_network_without_its_classifier_returns_the_classifiers_input(
    name: str, classifier: str, dimension: int
) -> None:
    architecture = architectures.find(name)
    network = architecture.empty(architecture.default)
    assert base.cut(network) == (classifier, dimension)
    assert not network.training
    crop = architecture.default.preprocessing.crop
    device = next(network.parameters()).device
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, crop, crop, device=device)).shape == (2, dimension)


def test_removing_the_classifier_rejects_a_network_without_a_linear_classifier() -> None:
    with pytest.raises(FeatstoreError, match="no linear"):
        base.cut(nn.Sequential(nn.ReLU()))


def test_weights_digest_equals_its_documented_definition() -> None:
    module = nn.Linear(2, 1)
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    text = b"bias float32 1\n" + bias.astype("<f4").tobytes() + b"weight float32 1,2\n" + weight.astype("<f4").tobytes()
    assert base.digest(module) == hashlib.sha256(text).hexdigest()


def test_weights_digest_changes_with_any_bit_but_ignores_batch_norm_counters() -> None:
    module = nn.BatchNorm2d(4)
    before = base.digest(module)
    module.num_batches_tracked += 5
    assert base.digest(module) == before
    module.running_mean.data.view(torch.int32)[2] ^= 1
    assert base.digest(module) != before


def test_non_finite_weights_are_reported_by_the_name_of_their_tensor() -> None:
    module = nn.Linear(2, 2)
    assert base.non_finite(module) is None
    module.bias.data[0] = np.inf
    assert base.non_finite(module) == "bias"
