"""Which part of a picture becomes which pixels: torchvision's Resize and CenterCrop in numbers."""

from __future__ import annotations

from typing import Final

from featstore.decode.preprocessing import Preprocessing

LARGEST_RESIZED: Final = 1 << 24
"""Pixels of the resized picture above which only its crop is computed: aspect ratios of about 300 and more."""


def resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (width, height) after the shorter side was resized, as torchvision's _compute_resized_output_size."""
    longer = int(preprocessing.resize * max(width, height) / min(width, height))
    return (preprocessing.resize, longer) if width <= height else (longer, preprocessing.resize)


def crop_origin(size: tuple[int, int], crop: int) -> tuple[int, int]:
    """Return (left, top) of the central crop of a picture of ``size``, as torchvision's center_crop."""
    return round((size[0] - crop) / 2.0), round((size[1] - crop) / 2.0)
