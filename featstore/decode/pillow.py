"""The reference decoder: Pillow, equal bit for bit to torchvision's transforms on a PIL image.

How pictures are read (part of the identity of the features, as decoder class ``pillow``):

* EXIF orientation is honoured; a damaged EXIF block counts as none. ICC profiles are not applied.
* Gray and 1-bit pictures become R = G = B. CMYK and YCCK go to RGB by Pillow's formula without a profile.
* 16-bit gray keeps its high byte, as Pillow does with 16-bit colour. 32-bit values are read on the first scale that
  holds them all ([0, 255] or [0, 65535] for integers, [0, 1] or [0, 255] for floats), else stretched from the least
  to the greatest. NaN and infinities count as the least finite value.
* Palettes are looked up. Alpha, of any kind, is laid over white: what a viewer does not show does not count.
* An animation gives its first frame, a file of several pages its first page.

Only formats that Pillow decodes inside this process are tried: never those that start another program (EPS).
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from featstore import defaults
from featstore.decode.preprocessing import DecodeFailure, Preprocessing
from featstore.decode.signatures import describe

DECODER: Final = "pillow"

_PLUGINS: Final = (
    JpegImagePlugin, MpoImagePlugin, PngImagePlugin, GifImagePlugin, BmpImagePlugin, WebPImagePlugin, TiffImagePlugin,
    PpmImagePlugin, Jpeg2KImagePlugin, AvifImagePlugin, TgaImagePlugin,
)  # fmt: skip
"""Importing them registers them; TGA, which has no signature, is asked last."""
_FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB", "TGA")
_RESAMPLING: Final = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION: Final = 0x0112
_SCALES: Final = {"I": (255.0, 65535.0), "F": (1.0, 255.0)}
_LARGEST_RESIZED: Final = 1 << 24
"""Pixels of the resized picture above which only its crop is computed: aspect ratios of about 300 and more."""

# Without a handler of its own Pillow's logger would write to stderr by logging's last resort.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode(data: bytes, preprocessing: Preprocessing, *, max_pixels: int = defaults.MAX_PIXELS) -> NDArray[np.uint8]:
    """Return the pixels of the picture file ``data`` as (crop, crop, 3) RGB uint8, C-contiguous.

    Equal bit for bit to torchvision's ``Resize`` and ``CenterCrop`` of the PIL image that ``load_rgb`` returns
    (for an aspect ratio of 300 and more within one level, so that memory stays bounded).
    Raises DecodeFailure; nothing else for any content of ``data``.
    """
    with _as_failure():
        image = load_rgb(data, max_pixels=max_pixels)
        return np.array(_resize_and_crop(image, preprocessing))


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size, crop = preprocessing.resize, preprocessing.crop
    width, height = image.size
    # torchvision.transforms.functional._compute_resized_output_size
    short, long = min(width, height), max(width, height)
    longer = int(size * long / short)
    new_width, new_height = (size, longer) if width <= height else (longer, size)
    # torchvision.transforms.functional.center_crop
    left, top = round((new_width - crop) / 2.0), round((new_height - crop) / 2.0)
    resampling = _RESAMPLING[preprocessing.interpolation]
    if new_width * new_height > _LARGEST_RESIZED:
        x, y = width / new_width, height / new_height
        box = (left * x, top * y, min((left + crop) * x, width), min((top + crop) * y, height))
        return image.resize((crop, crop), resampling, box)
    if (new_width, new_height) != (width, height):
        image = image.resize((new_width, new_height), resampling)
    return image.crop((left, top, left + crop, top + crop))


def load_rgb(data: bytes, *, max_pixels: int = defaults.MAX_PIXELS) -> Image.Image:
    """Return the picture file ``data`` as a PIL image of mode RGB, upright, read as this module's text says.

    Raises DecodeFailure; a picture of more than ``max_pixels`` pixels is refused before they are decoded.
    """
    with _as_failure(), _pillow_silent():
        image = _open(data)
        width, height = image.size
        if width * height > max_pixels:
            raise DecodeFailure(
                "too-many-pixels", f"{width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}"
            )
        if width < 1 or height < 1:
            raise DecodeFailure("corrupt", f"a picture of {width} x {height} pixels")
        orientation = _orientation(image)
        image.load()
        rgb = _to_rgb(image)
        transpose = _TRANSPOSE.get(orientation)
        return rgb if transpose is None else rgb.transpose(transpose)


def _open(data: bytes) -> Image.Image:
    """Identify and open ``data`` lazily.

    This is what Image.open does, less its process-wide pixel limit (ours is an argument) and its warnings.
    """
    prefix, damage = data[:16], ""
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept(prefix) if accept is not None else True
            if isinstance(accepted, str):
                raise DecodeFailure("unsupported", accepted)
            if accepted:
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, KeyError, ValueError, EOFError, struct.error):
            if accept is not None and len(data) > len(prefix):
                damage = f"a {name} file whose beginning is damaged or cut off"
    if damage:
        raise DecodeFailure("corrupt", damage)
    reason, message = describe(data)
    raise DecodeFailure(reason, message)


_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the operation that makes the picture upright (CIPA DC-008, tag 0x0112)."""


def _orientation(image: Image.Image) -> int:
    # Pillow turns TIFF pictures upright itself while it loads them.
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises nearly anything, and says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
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
    """Read (h, w) numbers of 32 bits as gray levels: on the first scale that holds them all, else stretched."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(values[finite].min()), float(values[finite].max())
    levels = np.where(finite, values, low).astype(np.float64)
    scale = next((scale for scale in scales if low >= 0 and high <= scale), None)
    if scale is None:
        levels -= low
        scale = high - low or 1.0
    return np.rint(levels * (255.0 / scale)).astype(np.uint8)


@contextlib.contextmanager
def _as_failure() -> Iterator[None]:
    """Turn whatever Pillow raises into a DecodeFailure."""
    try:
        yield
    except DecodeFailure:
        raise
    except MemoryError:
        raise DecodeFailure("out-of-memory", "the picture does not fit into the memory there is") from None
    except Exception as error:
        text = f"{error}" or type(error).__name__
        cut = isinstance(error, EOFError) or "truncated" in text.lower() or "unexpected end" in text.lower()
        raise DecodeFailure("truncated" if cut else "corrupt", text[:300]) from None


_silence = threading.Lock()
_silenced = 0
_FILTER: Final = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


@contextlib.contextmanager
def _pillow_silent() -> Iterator[None]:
    """Silence Pillow's warnings while any thread is inside.

    Pillow warns of damage that it reads past. warnings.catch_warnings cannot be used from several threads, and
    under ``-W error`` a warning would turn a readable picture into a failure.
    """
    global _silenced
    filters = cast("list[Any]", warnings.filters)
    with _silence:
        if _silenced == 0:
            filters.insert(0, _FILTER)
        _silenced += 1
    try:
        yield
    finally:
        with _silence:
            _silenced -= 1
            if _silenced == 0:
                # Someone else's catch_warnings may have taken it away already.
                with contextlib.suppress(ValueError):
                    cast("list[Any]", warnings.filters).remove(_FILTER)
