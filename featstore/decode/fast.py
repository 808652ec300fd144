"""The fast decoder: Pillow reads the picture, torch resizes its 8-bit pixels with SIMD instructions.

Pixel values (0..255) differ from the reference decoder's by at most 1 with bilinear resizing and 2 with bicubic,
because torch rounds differently. The features differ slightly too, so the decoder's name ``pillow-torch`` is part of
their identity.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from featstore import defaults
from featstore.decode import pillow
from featstore.decode.geometry import LARGEST_RESIZED, on_square, resized_size
from featstore.decode.opening import as_failure
from featstore.decode.preprocessing import Preprocessing

DECODER: Final = "pillow-torch"
_INTERPOLATIONS: Final = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int = defaults.MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the pixels of the picture file ``data`` as (crop, crop, 3) RGB uint8, C-contiguous.

    Pixel values (0..255) differ from those of ``featstore.decode.decode`` by at most 1 (bicubic: 2). The reference
    decoder is used for interpolations that torch lacks, and for extreme aspect ratios, whose resized picture would be
    too large. Raises DecodeFailure for an unreadable picture.
    """
    with as_failure():
        return resize_and_crop(pillow.load_rgb(data, max_pixels=max_pixels), preprocessing)


def resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return the RGB ``image``, resized, and cropped or padded, as (crop, crop, 3) uint8."""
    size = resized_size(*image.size, preprocessing)
    interpolation = _INTERPOLATIONS.get(preprocessing.interpolation)
    if interpolation is None or size[0] * size[1] > LARGEST_RESIZED:
        return pillow.resize_and_crop(image, preprocessing)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    # Like the reference decoder, resize_image does not change a picture that already has this size.
    resized = functional.resize_image(pixels, [size[1], size[0]], interpolation, antialias=True)
    return on_square(resized.permute(1, 2, 0).numpy(), preprocessing)
