"""Training a real backbone: gradual unfreezing by its layers, resume bit for bit, and layers that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featstore.backbones import Backbone, load_backbone
from featstore.errors import UsageError
from featstore.finetuning.history import EpochRecord
from featstore.finetuning.network import TunedNetwork
from featstore.finetuning.partition import Partition, split_at
from featstore.finetuning.phases import LayerPhases
from featstore.finetuning.plan import Plan
from featstore.finetuning.training import TrainingData, train

CUT = "features.10"


class Activations:
    """Random activations (n, *shape) of a layer."""

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        self.codes = np.arange(rows) % 3
        self.values = np.random.default_rng(0).normal(size=(rows, *shape)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.codes)

    def batches(self, rows: NDArray[np.intp], epoch: int, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield torch.from_numpy(self.values[part]), part


def parts() -> tuple[Backbone, Partition, TunedNetwork]:
    backbone = load_backbone("mobilenet_v3_small", weights="random:0")
    partition = split_at(backbone, CUT)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        head = nn.Sequential(nn.Dropout(0.2), nn.Linear(backbone.dimension, 3))
    return backbone, partition, TunedNetwork(partition, head)


def plan(**changes: Any) -> Plan:
    chosen = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "unfreeze": (("features.12", 2), ("features.11", 3))}
    return Plan(**{**chosen, **changes})


def run(folder: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], list[EpochRecord]]:
    """Train; return the states of the whole backbone and of the head, and the history."""
    backbone, partition, network = parts()
    data = TrainingData(Activations(13, partition.shape), Activations(6, partition.shape), ("a", "b", "c"))
    history = train(network, LayerPhases(backbone, network, partition, plan()), data, plan(), folder, **options)
    return backbone.module.state_dict(), network.head.state_dict(), history


@pytest.mark.slow
def test_resumed_gradual_unfreezing_equals_uninterrupted_training(tmp_path):
    start = parts()[0].module.state_dict()
    whole, head, history = run(tmp_path / "whole")
    assert [record.frozen for record in history] == [
        "all but the head",
        "all but the head",
        "before features.12",
        "before features.11",
    ]
    changed = {name.split(".")[1] for name, each in whole.items() if not torch.equal(each, start[name])}
    assert changed == {"11", "12", "0"}  # The layer name "0" means classifier.0.
    done: list[EpochRecord] = []
    run(tmp_path / "broken", on_epoch=done.append, stop=lambda: len(done) == 3)
    again, head_again, _ = run(tmp_path / "broken", resume=True)
    assert len(done) == 3
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    torch.testing.assert_close(head_again, head, rtol=0, atol=0)


@pytest.fixture(scope="module")
def shared() -> tuple[Backbone, Partition, TunedNetwork]:
    return parts()


def phases(shared: tuple[Backbone, Partition, TunedNetwork], **changes: Any) -> LayerPhases:
    backbone, partition, network = shared
    return LayerPhases(backbone, network, partition, plan(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unfreeze": (), "freeze_to": CUT}, ["up to features.10"] * 3),
        (
            {"unfreeze": (("features.11", 2),), "freeze_to": "features.11"},
            ["up to features.11"] + ["before features.11"] * 2,
        ),
        ({"unfreeze": (("features.12", 1),)}, ["before features.12"] * 3),
    ],
)
def test_frozen_layers_are_described_in_words(shared, changes, words):
    made = phases(shared, **changes)
    assert [made.frozen(epoch) for epoch in (1, 2, 3)] == words


def test_trained_parameters_and_learning_rates_follow_the_schedule(shared):
    backbone, partition, network = shared
    made = LayerPhases(backbone, network, partition, plan(layer_decay=0.5))
    trained = []
    for epoch in (1, 2, 3, 1):
        groups = made.start(epoch)
        trained.append({name for name, each in network.named_parameters() if each.requires_grad})
    assert trained[0] < trained[1] < trained[2] == {name for name, _ in network.named_parameters()}
    assert trained[3] == trained[0] == {"head.1.weight", "head.1.bias"}
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates["head.1.weight"] == 1e-3
    assert rates["tail.classifier.0.weight"] == 0.5 * rates["head.1.weight"]
    assert rates["tail.features.12.0.weight"] == 0.5 * rates["tail.classifier.0.weight"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"unfreeze": (("features.13", 2),)}, "did you mean"),
        ({"unfreeze": (("features.11", 2), ("features.12", 3))}, "features.12 is trained already before epoch 3"),
        (
            {"unfreeze": (("features.12", 2),), "freeze_to": "features.11"},
            "features.12 is trained already before epoch 2",
        ),
        ({"unfreeze": (("features.9", 2),)}, r"features.9 cannot be trained: the layers up to features\.10 are frozen"),
        ({"unfreeze": (), "freeze_to": ""}, "the whole network cannot be trained"),
    ],
)
def test_invalid_layers_to_unfreeze_are_refused(shared, changes, match):
    with pytest.raises(UsageError, match=match) as caught:
        phases(shared, **changes)
    assert "\n" not in str(caught.value)
