"""Time an epoch of fine-tuning with cached activations, with the frozen layers live, and in a plain DataLoader loop.

    python -m tests.slow.finetune_speed FOLDER [--count 100] [--views 8] [--cut NAME]... [--plain 2]

FOLDER: pictures as class/file, such as dogs-vs-cats/train; ``--count`` pictures of each class are used. The cuts are
EfficientNet-Lite0 after its seventh and its sixth stage, and ResNet50 with random weights after layer3. All three loops
train the same layers with the same batches, optimiser and number of pictures, and measure the same held-out pictures
after each epoch. The runs with cached and with live frozen layers have as many epochs as there are views, so that every
view is used; the plain loop has ``--plain`` epochs. Prints the median seconds per epoch without the first epoch, and
their ratios; the accuracy of both runs with the 95 % interval of the live run; and the break-even epoch as ``finetune``
prints it and as computed from the measured times. Required are the ratios in CUTS, a break-even that is right within one
epoch, and an accuracy with the cache that lies in the interval of the live run. The exit code is 1 if one is missed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from featstore import defaults
from featstore.backbones import Backbone, load_backbone
from featstore.finetuning.partition import frozen_names
from featstore.processes.malloc import keep_memory
from featstore.stages.extract import extract
from featstore.stages.finetune import FinetuneReport, finetune
from tests.slow.finetune_quality import linked

CUTS: Final[dict[str, tuple[dict[str, Any], str, float, float]]] = {
    "lite0-7": ({"backbone": "efficientnet_lite0"}, "_blocks.15", 4.0, 8.0),
    "lite0-6": ({"backbone": "efficientnet_lite0"}, "_blocks.14", 2.5, 5.0),
    "resnet50": ({"backbone": "resnet50", "weights": "random:0"}, "layer3", 2.2, 0.0),
}
"""By name: the network and its last frozen layer; the required ratio of a live epoch's time to that of a cached epoch;
the same ratio for an epoch of the plain loop.
"""


def tuned(store: Path, out: Path, cut: str, **options: Any) -> FinetuneReport:
    """Fine-tune the layers after ``cut``."""
    report = finetune(store, out, freeze_to=cut, **options)
    assert report.tuned is not None
    return report


def seconds_of(report: FinetuneReport) -> float:
    """Return the median seconds per epoch, without the first epoch unless it is the only one."""
    seconds = [row["seconds"] for row in report.history[1:]]
    return statistics.median(seconds[1:] or seconds)


def plain_epoch(folder: Path, report: FinetuneReport, backbone: Backbone, cut: str, epochs: int) -> float:
    """Return the median seconds of an epoch of a usual training loop: DataLoader, frozen layers live, evaluation."""
    assert report.tuned is not None
    steps, crop = backbone.preprocessing, backbone.preprocessing.crop
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(steps.mean, steps.std)]
    augmented = v2.Compose([v2.RandomResizedCrop(crop, (0.8, 1.0)), v2.RandomHorizontalFlip(), *last])
    plain = v2.Compose([v2.Resize(steps.resize), v2.CenterCrop(crop), *last])
    order = np.random.default_rng(0).permutation(len(ImageFolder(folder)))
    training, held_out = np.split(order, [len(report.tuned.split.train)])
    workers = {"batch_size": defaults.BATCH, "num_workers": os.cpu_count() or 1}
    loader = DataLoader(Subset(ImageFolder(folder, augmented), training.tolist()), shuffle=True, **workers)
    checking = DataLoader(Subset(ImageFolder(folder, plain), held_out.tolist()), **workers)
    frozen = frozen_names(backbone, cut)
    network = nn.Sequential(backbone.module, nn.Linear(backbone.dimension, 2))
    for name, parameter in backbone.module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    optimizer = torch.optim.AdamW([each for each in network.parameters() if each.requires_grad], 1e-4)
    seconds = []
    for _ in range(epochs):
        began = time.perf_counter()
        network.train()
        for inputs, codes in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), codes).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            for inputs, _ in checking:
                network(inputs)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:] or seconds)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=100, show_default=True)
@click.option("--views", default=8, show_default=True)
@click.option("--cut", "cuts", multiple=True, type=click.Choice(list(CUTS)), default=list(CUTS))
@click.option("--plain", "plain_epochs", default=2, show_default=True, help="Epochs of the plain loop.")
def main(folder: Path, count: int, views: int, cuts: tuple[str, ...], plain_epochs: int) -> None:
    """Measure all cuts and print a line for each."""
    # The command finetune does the same, and the plain loop gains as much.
    keep_memory()
    place, failed = Path(tempfile.mkdtemp(prefix="featstore-finetune-speed-")), False
    pictures = linked(folder.resolve(), place / "pictures", count)
    print(f"{2 * count:,} pictures, {views} views, {torch.get_num_threads()} threads")
    for name in cuts:
        network, cut, least_live, least_plain = CUTS[name]
        store = place / f"{network['backbone']}.store"
        extract(pictures, store, **network)
        shared = {"views": views, "epochs": views, "batch": defaults.BATCH}
        cached = tuned(store, place / f"{name}.cached", cut, cache=1 << 40, **shared)
        live = tuned(store, place / f"{name}.live", cut, cache="none", **shared)
        backbone = load_backbone(network["backbone"], network.get("weights"))
        plain = plain_epoch(pictures, live, backbone, cut, plain_epochs)
        assert cached.tuned is not None
        assert live.tuned is not None
        fast, slow = seconds_of(cached), seconds_of(live)
        true, told = cached.seconds["cache"] / (slow - fast), cached.tuned.choice.break_even
        close = told is not None and abs(told - true) <= 1
        interval = live.tuned.report.accuracy
        within = interval.low <= cached.tuned.report.accuracy.value <= interval.high
        required = {
            f"live {least_live}x": slow >= least_live * fast,
            f"DataLoader {least_plain}x": plain >= least_plain * fast,
            "break-even within one epoch": close,
            "accuracy in the live run's interval": within,
        }
        missed = [what for what, holds in required.items() if not holds]
        failed |= bool(missed)
        print(
            f"{name:<10} cached {fast:.2f} s, live {slow:.2f} s = {slow / fast:.1f}x, DataLoader {plain:.2f} s = "
            f"{plain / fast:.1f}x; accuracy {cached.tuned.report.accuracy.value:.4f} cached, {interval.value:.4f} "
            f"[{interval.low:.4f}, {interval.high:.4f}] live; break-even {told if told is None else round(told, 1)} told, "
            f"{true:.1f} measured; cache of {cached.tuned.choice.bytes / 1e6:.1f} MB made in {cached.seconds['cache']:.1f} s"
            f"{'; MISSED: ' + ', '.join(missed) if missed else ''}",
            flush=True,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
