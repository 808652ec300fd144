"""Geometry of torchvision's Resize and CenterCrop: sizes and offsets."""

from __future__ import annotations

from typing import Final

from featstore.decode.preprocessing import Preprocessing

LARGEST_RESIZED: Final = 1 << 24
"""Largest resized picture in pixels; for larger ones (aspect ratios above about 300) only the crop is computed."""


def resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (width, height) after resizing the shorter side, like torchvision's _compute_resized_output_size."""
    longer = int(preprocessing.resize * max(width, height) / min(width, height))
    return (preprocessing.resize, longer) if width <= height else (longer, preprocessing.resize)


def crop_origin(size: tuple[int, int], crop: int) -> tuple[int, int]:
    """Return (left, top) of the central crop of a picture of ``size``, like torchvision's center_crop."""
    return round((size[0] - crop) / 2.0), round((size[1] - crop) / 2.0)
