"""BatchNorm folding (merging BatchNorm into the convolution before it, which is faster), and an engine that uses it."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore.backbones import Backbone
from featstore.decode import Preprocessing
from featstore.engines.base import Immediate
from featstore.engines.memory import halving
from featstore.engines.shared import as_tensor, check_features, exact_float32, versions

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""torch dtypes of the precision classes."""


def fold(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` with each BatchNorm folded into the convolution before it.

    Convolution and BatchNorm together, y = gamma (Wx + b - mean) / sqrt(var + eps) + beta, are again a convolution
    (Jacob et al. 2018, arXiv 1712.05877, section 3.2). A network that torch.fx cannot trace is copied unchanged.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded: nn.Module = fuse(module)
    except Exception:  # Which type of error torch.fx raises depends on the network.
        return copy.deepcopy(module)
    return folded.eval().requires_grad_(False)


class Normalised(nn.Module):
    """Normalises pictures and runs ``module``: (n, h, w, 3) uint8 -> (n, d) float32, in channels_last layout.

    ``module`` computes in ``dtype``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype=dtype).to(memory_format=torch.channels_last)
        self.dtype = dtype
        mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
        self.register_buffer("scale", torch.from_numpy(1 / (255 * std)).float().view(1, 3, 1, 1))
        self.register_buffer("shift", torch.from_numpy(-mean / std).float().view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        # Permuted (n, h, w, 3) pixels already have the channels_last layout. Normalise in float32 for every dtype.
        inputs = torch.addcmul(self.shift, pictures.permute(0, 3, 1, 2).float(), self.scale).to(self.dtype)
        features: Tensor = self.module(inputs.contiguous(memory_format=torch.channels_last)).float()
        return features


class FoldedEngine(Immediate):
    """Engine that runs torch on a network with folded BatchNorm, in channels_last layout, on the CPU or on CUDA.

    ``precision``: "fp32" (exact), "bf16" or "fp16".
    """

    name = "torch-folded"

    def __init__(self, backbone: Backbone, device: torch.device, precision: str = "fp32") -> None:
        self.dimension = backbone.dimension
        self.precision = precision
        self.device = device
        self._network = Normalised(fold(backbone.module), backbone.preprocessing, DTYPES[precision]).to(device)

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""
        return halving(self._compute, pictures)

    def _compute(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), exact_float32(self.device):
            features: NDArray[np.float32] = self._network(as_tensor(pictures).to(self.device)).cpu().numpy()
        return check_features(features, len(pictures), self.dimension)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of features: engine, precision, device, threads and library versions."""
        return {"engine": self.name, "precision": self.precision, **versions(self.device)}
