"""The reference decoder: Pillow, bit-identical to torchvision's transforms on a PIL image.

Rules for reading pictures (part of the identity of the features, as the decoder's name ``pillow``):

* EXIF orientation is applied; a damaged EXIF block is ignored. ICC profiles are not applied.
* Gray and 1-bit pictures become R = G = B. CMYK and YCCK are converted to RGB by Pillow's formula without a profile.
* 16-bit gray is reduced to its high byte, as Pillow does with 16-bit colour. 32-bit values are scaled from the first
  range that contains them all: [0, 255] or [0, 65535] for integers, [0, 1] or [0, 255] for floats. If no range contains
  them, they are scaled from their minimum and maximum. NaN and infinities are replaced by the smallest finite value.
* Palette colours are looked up. Transparency of any kind is composited over white.
* Only the first frame of an animation, or the first page of a file, is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featstore import defaults
from featstore.decode.geometry import LARGEST_RESIZED, crop_origin, on_square, resized_size
from featstore.decode.opening import as_failure, open_picture, pillow_silent
from featstore.decode.preprocessing import DecodeFailure, Preprocessing

DECODER: Final = "pillow"

_RESAMPLING: Final = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_SCALES: Final = {"I": (255.0, 65535.0), "F": (1.0, 255.0)}
_ROWS: Final = 64
"""Rows of 32-bit values to convert at once, to bound memory: conversion needs several float64 copies of its rows."""


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int = defaults.MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the pixels of the picture file ``data`` as (crop, crop, 3) RGB uint8, C-contiguous.

    They are bit-identical to torchvision's ``Resize`` and ``CenterCrop`` (or ``Pad``) of the PIL image that
    ``load_rgb`` returns. For aspect ratios above about 300 only the crop is resized, to bound memory, and pixel values
    (0..255) differ by at most 1. Raises DecodeFailure, and no other exception for any content of ``data``.
    """
    with as_failure():
        return resize_and_crop(load_rgb(data, max_pixels=max_pixels), preprocessing)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the RGB ``image``, resized, and cropped or padded, as (crop, crop, 3) uint8."""
    crop, size = preprocessing.crop, resized_size(*image.size, preprocessing)
    resampling = _RESAMPLING[preprocessing.interpolation]
    if preprocessing.fit == "crop" and size[0] * size[1] > LARGEST_RESIZED:
        left, top = crop_origin(size, crop)
        x, y = image.width / size[0], image.height / size[1]
        box = (left * x, top * y, min((left + crop) * x, image.width), min((top + crop) * y, image.height))
        return np.array(image.resize((crop, crop), resampling, box))
    if size != image.size:
        image = image.resize(size, resampling)
    return on_square(np.array(image), preprocessing)


def load_rgb(data: bytes, *, max_pixels: int = defaults.MAX_PIXELS) -> Image.Image:
    """Return the picture file ``data`` as an upright PIL image of mode RGB, by the rules in this module's docstring.

    Raises DecodeFailure for an unreadable picture. A picture with more than ``max_pixels`` pixels is refused before
    decoding.
    """
    with as_failure(), pillow_silent():
        image, transpose = open_picture(data, max_pixels)
        image.load()
        rgb = to_rgb(image)
        return rgb if transpose is None else rgb.transpose(transpose)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a decoded image as RGB, by the rules in this module's docstring."""
    mode = image.mode
    if mode.startswith("I;16"):
        return _from_gray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if mode in _SCALES:
        return _from_gray(_to_bytes(np.asarray(image), _SCALES[mode]))
    try:
        if image.has_transparency_data:
            return _over_white(image.convert("RGBA"))
        return image if mode == "RGB" else image.convert("RGB")
    except ValueError:
        raise DecodeFailure("unsupported", f"pixels of the kind {mode} have no reading as RGB") from None


def _over_white(rgba: Image.Image) -> Image.Image:
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    white.alpha_composite(rgba)
    return white.convert("RGB")


def _from_gray(gray: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(gray).convert("RGB")


def _to_bytes(values: NDArray[Any], scales: tuple[float, ...]) -> NDArray[np.uint8]:
    """Convert 32-bit numbers (h, w) to gray levels 0..255.

    ``scales``: possible largest numbers, in ascending order. If all numbers are in 0..scale for one of these, the range
    0..scale (the first that fits) is mapped to 0..255. Otherwise the smallest number becomes 0 and the largest 255.
    """
    finite = (block[np.isfinite(block)] for block in _row_blocks(values))
    ranges = [(float(block.min()), float(block.max())) for block in finite if block.size]
    if not ranges:
        return np.zeros(values.shape, np.uint8)
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    scale = next((scale for scale in scales if low >= 0 and high <= scale), None)
    origin, factor = (0.0, 255.0 / scale) if scale is not None else (low, 255.0 / (high - low or 1.0))
    levels = [
        np.rint((np.where(np.isfinite(block), block, low).astype(np.float64) - origin) * factor).astype(np.uint8)
        for block in _row_blocks(values)
    ]
    return np.concatenate(levels)


def _row_blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (values[start : start + _ROWS] for start in range(0, len(values), _ROWS))
