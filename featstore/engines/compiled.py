"""torch.compile on the CPU: inductor generates C++ code for one batch shape."""

from __future__ import annotations

import platform
import shutil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featstore.backbones import Backbone
from featstore.engines.base import Immediate
from featstore.engines.folded import DTYPES, Normalised, fold
from featstore.engines.shared import as_tensor, check_features, in_blocks, versions
from featstore.errors import UsageError


def lacking() -> str:
    """Return a text that names what torch.compile lacks on this machine; "" if nothing is missing."""
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        return "a C++ compiler (g++ or clang++); install one"
    if platform.machine() in ("x86_64", "AMD64") and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        # For processors without AVX2, inductor generates C++ code that does not compile.
        return "a processor with AVX2 (which ATEN_CPU_CAPABILITY may have switched off)"
    return ""


class CompiledEngine(Immediate):
    """Engine that runs the network, with folded BatchNorm, by torch.compile; the first call takes up to a minute.

    Batches are split into blocks of ``block`` pictures, and the last block is padded. Therefore only one shape is
    compiled, and the features of a picture do not depend on the batch size.
    """

    name = "compile"

    def __init__(self, backbone: Backbone, precision: str = "fp32", block: int = 16) -> None:
        if need := lacking():
            raise UsageError(f"the engine compile needs {need} or use another engine")
        self.dimension = backbone.dimension
        self.precision = precision
        self.block = block
        network = Normalised(fold(backbone.module), backbone.preprocessing, DTYPES[precision]).eval()
        self._compiled = torch.compile(network, dynamic=False, options={"freezing": True})

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features (n, d) of the RGB pictures (n, h, w, 3)."""
        # torch's compiler inductor treats weights as constants only under no_grad, not under inference_mode.
        with torch.no_grad():
            features = np.concatenate(
                [self._compiled(as_tensor(block)).numpy()[:count] for block, count in in_blocks(pictures, self.block)]
            )
        return check_features(features, len(pictures), self.dimension)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of features: engine, precision, block, device, threads and library versions."""
        own = {"engine": self.name, "precision": self.precision, "block": self.block}
        return {**own, **versions(torch.device("cpu"))}
