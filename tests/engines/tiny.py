"""A tiny backbone that builds and compiles quickly: two convolutions and a residual addition."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

from featstore.backbones import Backbone
from featstore.decode import Preprocessing
from featstore.engines.open import _WITHOUT_BF16

needs_openvino_in_bf16 = pytest.mark.skipif(
    os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BF16,
    reason="OpenVINO has no bf16 under this limit of the instruction set",
)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.relu(x + self.branch(x)).mean((2, 3))


def tiny_backbone() -> Backbone:
    """Return the tiny backbone with fixed random weights, for pictures of 32 x 32; d = 8."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        module = Tiny().eval().requires_grad_(False)
    return Backbone("tiny", "output", 8, "random:0", "", Preprocessing(32, 32), module)
