"""Helpers of many tests: write small pictures, and build a real but tiny backbone."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from featstore.backbones import Backbone
from featstore.backbones.base import digest
from featstore.decode import Preprocessing
from featstore.stages.extract import ExtractOptions, ExtractReport, extract_in_process


def picture(seed: int, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """Return a picture with smooth colours and an edge, different for each seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [
        np.sin(x * random.uniform(0.1, 0.6) + y * random.uniform(0.1, 0.6) + random.uniform(0, 6)) for _ in range(3)
    ]
    pixels = np.stack(waves, axis=-1) * 80 + 128 + 40 * (x > random.integers(4, size[0] - 4))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_pictures(folder: Path, names: list[str], seed: int = 0) -> Path:
    """Write a JPEG or PNG (by its ending) for each name below ``folder``."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed + number).save(path)
    return folder


# Threads share torch's generator.
_DRAWING = threading.Lock()


def tiny_backbone(seed: int = 0, dimension: int = 8, name: str = "tiny") -> Backbone:
    """Return a convolutional network of two layers with its preprocessing, random by ``seed``."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(6, dimension, 3, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
    module.eval().requires_grad_(False)
    return Backbone(name, "input of head", dimension, f"random:{seed}", digest(module), Preprocessing(18, 16), module)


def extract(source: Any, store: str | os.PathLike[str], **options: Any) -> ExtractReport:
    """Extract in this process, which a loaded backbone, an opened source or the test's own decoder requires."""
    others = {name: options.pop(name) for name in ("progress", "stop", "decoder", "watch") if name in options}
    return extract_in_process(source, store, ExtractOptions(**options), **others)


def fail_first_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next os.fsync fail with the message "the disk"; only once, as a real disk reports an error once."""
    real, answers = os.fsync, [OSError(errno.EIO, "the disk")]

    def fsync(handle: int) -> None:
        if answers:
            raise answers.pop()
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
