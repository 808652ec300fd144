"""The reference engine: eager torch in float32."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.backbones import Backbone
from featstore.engines.base import Immediate
from featstore.engines.memory import halving
from featstore.engines.shared import as_tensor, check_features, exact_float32, versions
from featstore.errors import FeatstoreError


class PlainEngine(Immediate):
    """The reference for all other engines: eager torch on contiguous (n, 3, h, w) float32.

    Pictures are normalised as by torchvision's transforms. TF32 is disabled, so CUDA computes in full float32.
    """

    name = "torch"
    precision = "fp32"

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        self.dimension = backbone.dimension
        self.device = device
        # Copy the module before moving it to CUDA, because module.to() changes the caller's module.
        self._module = backbone.module if device.type == "cpu" else copy.deepcopy(backbone.module).to(device)
        preprocessing = backbone.preprocessing
        self._mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""
        return halving(self._compute, pictures)

    def _compute(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), exact_float32(self.device):
            pixels = as_tensor(pictures).to(self.device).permute(0, 3, 1, 2).contiguous()
            # The operations and their order are those of torchvision's ToTensor and Normalize: bit-identical inputs.
            inputs = pixels.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
            output = self._module(inputs)
            if not isinstance(output, torch.Tensor):
                raise FeatstoreError(
                    f"the network returned a {type(output).__name__} where a tensor (n, d) is due; correct it"
                )
            features: NDArray[np.float32] = output.to("cpu", torch.float32).numpy()
        return check_features(features, len(pictures), self.dimension)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of features: engine, device, threads and library versions."""
        return {"engine": self.name, "precision": self.precision, **versions(self.device)}
