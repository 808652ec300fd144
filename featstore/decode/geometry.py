"""Geometry of torchvision's Resize, CenterCrop and Pad: sizes and offsets."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featstore.decode.preprocessing import Preprocessing

LARGEST_RESIZED: Final = 1 << 24
"""Largest resized picture, in pixels. If the resized picture would be larger (aspect ratios above about 300), only its
central crop is computed."""


def resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (width, height) after resizing, like torchvision's _compute_resized_output_size."""
    if preprocessing.fit == "squash":
        return preprocessing.crop, preprocessing.crop
    if preprocessing.fit == "pad":
        side = preprocessing.crop
        shorter = max(1, int(side * min(width, height) / max(width, height)))
        return (shorter, side) if width <= height else (side, shorter)
    longer = int(preprocessing.resize * max(width, height) / min(width, height))
    return (preprocessing.resize, longer) if width <= height else (longer, preprocessing.resize)


def crop_origin(size: tuple[int, int], crop: int) -> tuple[int, int]:
    """Return (left, top) of the central crop of a picture of ``size``, like torchvision's center_crop."""
    return round((size[0] - crop) / 2.0), round((size[1] - crop) / 2.0)


def on_square(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return resized ``pixels`` (h, w, 3) as (crop, crop, 3): centre-cropped if larger, padded if smaller."""
    crop = preprocessing.crop
    height, width = pixels.shape[:2]
    if preprocessing.fit != "pad":
        left, top = crop_origin((width, height), crop)
        return np.ascontiguousarray(pixels[top : top + crop, left : left + crop])
    square = np.empty((crop, crop, 3), np.uint8)
    square[:] = preprocessing.fill
    square[_centred(width, height, crop)] = pixels
    return square


def content_box(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[slice, slice]:
    """Return the (rows, columns) of the (crop, crop, 3) pixels that show a picture of ``size`` (width, height).

    The rest are the margins of the fit "pad"; other fits have none.
    """
    if preprocessing.fit != "pad":
        return slice(0, preprocessing.crop), slice(0, preprocessing.crop)
    return _centred(*resized_size(*size, preprocessing), preprocessing.crop)


def picture_box(
    size: tuple[int, int], preprocessing: Preprocessing, part: tuple[float, float, float, float]
) -> tuple[int, int, int, int] | None:
    """Return the pixels (left, top, right, bottom) of a picture that a part of the network's input shows.

    ``size``: (width, height) of the picture in pixels.
    ``part``: (left, top, right, bottom) as shares (0 to 1) of the input's sides. The box is rounded outwards, and right
    and bottom are exclusive. None if the part is in the margins of the fit "pad".
    """
    side, resized = preprocessing.crop, resized_size(*size, preprocessing)
    if preprocessing.fit == "pad":
        rows, columns = _centred(*resized, side)
        origin = -columns.start, -rows.start
    else:
        origin = crop_origin(resized, side)
    box: list[int] = []
    for at, (share, rounded) in enumerate(zip(part, (math.floor, math.floor, math.ceil, math.ceil), strict=True)):
        axis = at % 2
        # Round first to a millionth of a pixel, so that rounding errors do not add a whole pixel.
        pixel = rounded(round((origin[axis] + share * side) * size[axis] / resized[axis], 6))
        box.append(min(max(pixel, 0), size[axis]))
    left, top, right, bottom = box
    return (left, top, right, bottom) if left < right and top < bottom else None


def _centred(width: int, height: int, side: int) -> tuple[slice, slice]:
    left, top = (side - width) // 2, (side - height) // 2
    return slice(top, top + height), slice(left, left + width)
