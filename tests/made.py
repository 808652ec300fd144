"""Helpers for many tests: write small pictures, and build a tiny backbone."""

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
    """Return a small picture with smooth colours and a vertical edge, different for each seed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    waves = [
        np.sin(x * random.uniform(0.1, 0.6) + y * random.uniform(0.1, 0.6) + random.uniform(0, 6)) for _ in range(3)
    ]
    pixels = np.stack(waves, axis=-1) * 80 + 128 + 40 * (x > random.integers(4, size[0] - 4))[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_pictures(folder: Path, names: list[str], seed: int = 0) -> Path:
    """Write a picture to ``folder``/name for each name; the extension of the name sets the format."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed + number).save(path)
    return folder


# Only one thread at a time may seed torch's generator, which all threads share.
_DRAWING = threading.Lock()


def tiny_backbone(seed: int = 0, dimension: int = 8, name: str = "tiny") -> Backbone:
    """Return a backbone of two convolutions with random weights drawn with ``seed``, for pictures of 16 x 16 pixels."""
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
    """Extract in this process, so that tests can pass a loaded backbone, an opened source or their own decoder."""
    others = {name: options.pop(name) for name in ("progress", "stop", "decoder", "watch") if name in options}
    return extract_in_process(source, store, ExtractOptions(**options), **others)


def fail_first_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the next os.fsync fail, with the message "the disk": the system reports a disk error only once."""
    real, answers = os.fsync, [OSError(errno.EIO, "the disk")]

    def fsync(handle: int) -> None:
        if answers:
            raise answers.pop()
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
