"""Synthetic test pictures, structured like photographs so that wrong preprocessing changes the features."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def photograph(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Return a synthetic RGB picture: a coloured gradient with shapes of several sizes, slightly blurred and noisy."""
    rng = np.random.default_rng(seed)
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    corners = rng.uniform(0, 255, (3, 3))
    image = Image.fromarray(
        (corners[0] * (1 - down) + corners[1] * down * (1 - across) + corners[2] * down * across).astype(np.uint8)
    )
    draw = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(1, max(2, width // 2)), rng.integers(1, max(2, height // 2))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((int(x), int(y), int(x + w), int(y + h)), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.5))))
    noisy = np.asarray(image, np.int16) + rng.normal(0, 6, (height, width, 3)).astype(np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
