"""Tests of CUDA options that need no GPU; ``python -m tests.engines.on_cuda`` checks the CUDA engines on a GPU."""

from __future__ import annotations

import pytest
import torch

from featstore.backbones import load_backbone
from featstore.engines import open_engine
from featstore.engines.shared import exact_float32
from featstore.errors import UsageError


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_missing_cuda_error_names_the_remedy(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--device cpu"):
        open_engine(load_backbone("resnet18", "random:0"), device=device)


def test_engine_on_a_nonexistent_device_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="2 CUDA devices"):
        open_engine(load_backbone("resnet18", "random:0"), device="cuda:2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "openvino"}, "runs on CPUs"),
        ({"engine": "openvino-int8"}, "runs on CPUs"),
        ({"engine": "torch", "precision": "bf16"}, "reference"),
        ({"precision": "int8"}, "asked for"),
    ],
)
def test_engine_rejects_conflicting_options_on_cuda(
    options: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match=words):
        open_engine(load_backbone("resnet18", "random:0"), device="cuda", **options)


def test_exact_float32_disables_tf32_and_restores_it_afterwards() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with exact_float32(torch.device("cuda")):
            assert not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
