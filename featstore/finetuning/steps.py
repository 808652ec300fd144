"""Helpers for a training step: losses, checks of batches, random generators, and torch's modes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from featstore.errors import UsageError
from featstore.finetuning.examples import Phases
from featstore.finetuning.plan import Plan, batch_sizes


def losses(logits: Tensor, codes: NDArray[np.intp], smoothing: float) -> Tensor:
    """Return the loss (m,) of each row: binary cross entropy of one sigmoid, or cross entropy of a softmax."""
    targets = torch.from_numpy(codes).to(logits.device)
    if logits.shape[1] == 1:
        smooth = targets.to(torch.float32) * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits[:, 0].float(), smooth, reduction="none")
    return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing, reduction="none")


def require_batches(network: nn.Module, phases: Phases, rows: int, plan: Plan) -> None:
    """Raise UsageError if an epoch of ``rows`` rows would train BatchNorm on a batch of one row."""
    if min(batch_sizes(rows, plan.batch_size)) > 1:
        return
    for epoch in range(1, plan.epochs + 1):
        phases.start(epoch)
        network.train()
        if trains_batch_norm(network):
            raise UsageError("BatchNorm cannot be trained on batches of one row; give a batch size of at least 2")


def trains_batch_norm(network: nn.Module) -> bool:
    """Return whether a BatchNorm layer of ``network`` is in train mode."""
    return any(isinstance(each, nn.modules.batchnorm._BatchNorm) and each.training for each in network.modules())


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's generators of the CPU and of ``device``, and restore their state at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed would also seed other devices, whose state is not restored at the end.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def plain_mode() -> Iterator[None]:
    """Compute with gradients and without autocast, even if the caller has set other modes."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        yield
