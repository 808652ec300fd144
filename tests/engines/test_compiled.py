from __future__ import annotations

import platform
import shutil

import numpy as np
import pytest
import torch

from featstore.engines.compiled import CompiledEngine, lacking
from featstore.engines.parity import EXACT, drift
from featstore.engines.plain import PlainEngine
from featstore.errors import UsageError
from tests.engines.tiny import tiny_backbone

pytestmark = pytest.mark.slow


def test_compiled_engine_is_exact_or_names_the_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    backbone = tiny_backbone()
    if not lacking():
        engine = CompiledEngine(backbone, block=4)
        features = engine(pictures)
        assert features.shape == (5, 8)
        assert drift(features, PlainEngine(backbone, torch.device("cpu"))(pictures))["greatest_difference"] <= EXACT
        np.testing.assert_array_equal(engine.submit(pictures).result(), features)
        assert engine.provenance()["block"] == 4
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match=r"g\+\+ or clang"):
        CompiledEngine(backbone)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(UsageError, match="AVX2"):
        CompiledEngine(backbone)
