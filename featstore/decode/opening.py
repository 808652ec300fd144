"""Open picture files with Pillow: find the format, size and orientation before decoding any pixel.

Only formats that Pillow decodes inside this process are tried, never those that start another program (EPS).
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, cast

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

from featstore.decode.preprocessing import DecodeFailure
from featstore.files.signatures import describe, is_heif

_PLUGINS: Final = (
    JpegImagePlugin, MpoImagePlugin, PngImagePlugin, GifImagePlugin, BmpImagePlugin, WebPImagePlugin, TiffImagePlugin,
    PpmImagePlugin, Jpeg2KImagePlugin, AvifImagePlugin, TgaImagePlugin,
)  # fmt: skip
"""Pillow's plugins for file formats; importing a plugin registers it. TGA files have no signature, so TGA is tried
last.
"""
_FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "DIB", "TGA")
_ORIENTATION: Final = 0x0112
_START_BYTES: Final = 1024
_TRANSPOSE: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Map from EXIF orientation (CIPA DC-008, tag 0x0112) to the operation that makes the picture upright."""

_TURNED: Final = (_TRANSPOSE[5], _TRANSPOSE[6], _TRANSPOSE[7], _TRANSPOSE[8])
"""The operations that turn a picture by 90 degrees, so that width and height are exchanged."""

# Without a handler, Pillow's logger would write to stderr through logging's handler of last resort.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def open_picture(data: bytes | BinaryIO, max_pixels: int) -> tuple[Image.Image, Image.Transpose | None]:
    """Open the picture file ``data`` (its bytes, or an open file) without decoding its pixels.

    Returns the image, and the operation that makes it upright (None if it is upright). Call this function inside
    ``as_failure`` and ``pillow_silent``. Raises DecodeFailure for data that is not a picture or has more than
    ``max_pixels`` pixels.
    """
    image = _open(data)
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeFailure(
            "too-many-pixels", f"{width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}"
        )
    if width < 1 or height < 1:
        raise DecodeFailure("corrupt", f"a picture of {width} x {height} pixels")
    return image, _TRANSPOSE.get(_orientation(image))


def picture_size(data: bytes | BinaryIO) -> tuple[int, int]:
    """Return width and height of the upright picture, from the beginning of its file. Raises DecodeFailure if the file
    is unreadable.
    """
    with as_failure(), pillow_silent():
        image, transpose = open_picture(data, sys.maxsize)
        return (image.height, image.width) if transpose in _TURNED else image.size


def _open(data: bytes | BinaryIO) -> Image.Image:
    """Find the format of ``data``, and open the picture without decoding its pixels.

    Unlike Image.open, this function does not apply Pillow's process-wide pixel limit and does not warn.
    """
    start = data if isinstance(data, bytes) else _rewound(data).read(_START_BYTES)
    if is_heif(start) and (heif := _heif()) is not None:
        return heif(_rewound(data), "")
    prefix, damage = start[:16], ""
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept(prefix) if accept is not None else True
            if isinstance(accepted, str):
                raise DecodeFailure("unsupported", accepted)
            if accepted:
                return factory(_rewound(data), "")
        except (SyntaxError, IndexError, TypeError, KeyError, ValueError, EOFError, struct.error):
            if accept is not None and len(start) > len(prefix):
                damage = f"a {name} file whose beginning is damaged or cut off"
    if damage:
        raise DecodeFailure("corrupt", damage)
    reason, message = describe(start)
    raise DecodeFailure(reason, message)


def _rewound(data: bytes | BinaryIO) -> BinaryIO:
    """Return ``data`` as a file at position 0.

    Bytes become a new file at each call, because a Pillow image keeps its file open.
    """
    if isinstance(data, bytes):
        return io.BytesIO(data)
    data.seek(0)
    return data


@functools.cache
def _heif() -> Callable[[BinaryIO, str], Image.Image] | None:
    """Import pillow-heif on first use; return its function that opens HEIF files, or None if it is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    return cast("Callable[[BinaryIO, str], Image.Image]", HeifImageFile)


def _orientation(image: Image.Image) -> int:
    # Pillow applies the orientation of TIFF pictures itself on loading.
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block raises many exception types, and the pixels may still be readable
        return 1
    return value if isinstance(value, int) else 1


@contextlib.contextmanager
def as_failure() -> Iterator[None]:
    """Convert every exception from Pillow to a DecodeFailure."""
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
def pillow_silent() -> Iterator[None]:
    """Silence Pillow's warnings while any thread is in this context.

    Pillow warns about damage that it tolerates. Under ``-W error`` such a warning would make a readable picture fail,
    and warnings.catch_warnings is not thread-safe.
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
                # Another catch_warnings block may have removed the warnings filter already.
                with contextlib.suppress(ValueError):
                    cast("list[Any]", warnings.filters).remove(_FILTER)
