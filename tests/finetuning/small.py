"""A small network, made-up rows and phases, to test the training without pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore.finetuning.plan import Plan
from featstore.finetuning.training import TrainingData


class SmallNetwork(nn.Module):
    """Two linear layers, optionally with BatchNorm and dropout, and a head."""

    def __init__(self, classes: int = 3, *, norm: bool = True, dropout: float = 0.3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layers: list[nn.Module] = [nn.Linear(8, 16), nn.BatchNorm1d(16) if norm else nn.Identity(), nn.ReLU()]
            self.first = nn.Sequential(*layers)
            self.second = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(dropout))
            self.head = nn.Linear(16, 1 if classes == 2 else classes)
        self.frozen: list[nn.Module] = []

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.second(self.first(inputs)))

    def train(self, mode: bool = True) -> SmallNetwork:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self


class WithAuxiliary(SmallNetwork):
    """The small network with an auxiliary classifier after its first layer."""

    def __init__(self) -> None:
        super().__init__(norm=False, dropout=0.0)
        self.auxiliary = nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Any:
        between = self.first(inputs)
        logits = self.head(self.second(between))
        return (logits, self.auxiliary(between)) if self.training else logits


class SmallPhases:
    """Trains only the head at first, the second layer too from epoch ``second``, and all layers from epoch ``first``."""

    def __init__(self, network: SmallNetwork, plan: Plan, second: int = 1, first: int = 1) -> None:
        self.network, self.plan, self.starts = network, plan, {"second": second, "first": first}

    def frozen(self, epoch: int) -> str:
        return ", ".join(name for name, start in self.starts.items() if epoch < start)

    def start(self, epoch: int) -> list[dict[str, Any]]:
        self.network.frozen = []
        for name, start in self.starts.items():
            layer = self.network.get_submodule(name)
            layer.requires_grad_(epoch >= start)
            if epoch < start:
                self.network.frozen.append(layer)
        names, parameters = zip(*self.network.named_parameters(), strict=True)
        decay = self.plan.weight_decay
        return [
            {"params": list(parameters), "names": list(names), "lr": self.plan.learning_rate, "weight_decay": decay}
        ]


class MadeExamples:
    """Rows (n, 8) in memory; every epoch adds its own small shift, as an augmented view would."""

    def __init__(self, values: NDArray[np.float32], codes: NDArray[np.intp], shift: float = 0.1) -> None:
        self.values, self.codes, self.shift = values, codes, shift
        self.asked: list[tuple[NDArray[np.intp], int]] = []

    def __len__(self) -> int:
        return len(self.codes)

    def batches(self, rows: NDArray[np.intp], epoch: int, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        self.asked.append((rows, epoch))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield torch.from_numpy(self.values[part] + np.float32(self.shift * epoch)), part


def made_rows(rows: int, classes: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return rows (n, 8) around one centre per class, and their class numbers."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(classes, 8))
    codes = np.arange(rows) % classes
    return (centres[codes] + 0.5 * random.normal(size=(rows, 8))).astype(np.float32), codes


def made_data(classes: int = 3, rows: int = 61, held_out: int = 30) -> TrainingData:
    """Return training rows, which are shifted in every epoch, and held-out rows, which are not shifted."""
    training, test = made_rows(rows, classes, 2), made_rows(held_out, classes, 3)
    names = tuple(f"class {number}" for number in range(classes))
    return TrainingData(MadeExamples(*training), MadeExamples(*test, shift=0.0), names, "made up")


def made_plan(**changes: Any) -> Plan:
    """Return a training plan of 4 epochs with a large learning rate."""
    return Plan(**{"epochs": 4, "batch_size": 10, "learning_rate": 1e-2, **changes})
