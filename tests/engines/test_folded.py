from __future__ import annotations

import pytest
import torch
from torch import nn

from featstore.backbones import load_backbone
from featstore.engines.folded import fold


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t"])
def test_batch_norm_folding_keeps_outputs_and_does_not_change_the_original(name: str) -> None:
    module = load_backbone(name, "random:0").module
    pictures = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = module(pictures)
        folded = fold(module)
        torch.testing.assert_close(folded(pictures), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
        assert torch.equal(module(pictures), expected)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())


def test_batch_norm_folding_copies_a_network_that_torch_fx_cannot_trace() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    module = Odd()
    copied = fold(module)
    assert copied is not module
    assert float(copied(torch.tensor([-2.0]))) == 2.0
