"""Regions of large TIFF and BigTIFF files, read by tile or strip without holding the whole picture (extra ``tiff``).

tifffile finds and unpacks the tiles or strips. Only files that tifffile reads exactly as Pillow does are read in parts:
gray and RGB of 8 and 16 bits, with or without alpha, interleaved, upright, losslessly compressed. JPEG-compressed files
are read in parts only if the picture has too many pixels to be decoded whole.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featstore.decode.opening import as_failure, picture_size
from featstore.decode.pillow import to_rgb
from featstore.decode.preprocessing import DecodeFailure

MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
STREAMED_PIXELS: Final = 1 << 24
"""TIFF files with more pixels than this are read in parts."""
CACHED_BYTES: Final = 40 << 20
"""Size of the cache of unpacked tiles or strips, in bytes."""
_SEGMENT_BYTES: Final = 1 << 28
"""Largest tile or strip in bytes, packed or unpacked: a damaged or malicious file may claim any size."""
_LOSSLESS: Final = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
"""TIFF codes of the lossless compressions: none, LZW, Deflate, PackBits, old Deflate, LZMA, Zstandard."""
_JPEG: Final = frozenset({7, 33003, 33004, 33005, 34712})
_GRAY, _RGB, _YCBCR = 1, 2, 6

# Without a handler, tifffile's logger would write to stderr through logging's handler of last resort.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def open_parts(file: BinaryIO, max_pixels: int) -> TiffParts | None:
    """Return a large TIFF picture whose regions are read in parts; None if the picture is to be decoded whole.

    ``max_pixels``: limit for a whole picture, and for a region. Raises DecodeFailure if the file is damaged.
    """
    if file.read(4) not in MAGIC:
        return None
    file.seek(0)
    try:
        import tifffile
    except ImportError:
        _require_whole(file, max_pixels)
        return None
    try:
        page: Any = tifffile.TiffFile(file, name="picture").pages[0]
        pixels = page.imagewidth * page.imagelength
        kinds = _LOSSLESS | _JPEG if pixels > max_pixels else _LOSSLESS
        if pixels <= STREAMED_PIXELS or int(page.compression) not in kinds or not _is_plain(page):
            return None
    except Exception:
        # Let Pillow try to read the file: it may succeed, and if not, it explains the error.
        return None
    return TiffParts(page, file, max_pixels)


def _require_whole(file: BinaryIO, max_pixels: int) -> None:
    width, height = picture_size(file)
    if width * height > max_pixels:
        raise DecodeFailure(
            "too-many-pixels",
            f"{width} x {height} = {width * height:,} pixels; the limit is {max_pixels:,}; install image-featstore[tiff] to "
            "read it in parts",
        )


def _is_plain(page: Any) -> bool:
    """Return whether this module reads the pixels of the TIFF page ``page`` exactly as Pillow does."""
    alpha = page.samplesperpixel in (2, 4) and len(page.extrasamples) == 1 and int(page.extrasamples[0]) == 2
    lights = {1: (_GRAY,), 3: (_RGB, _YCBCR) if _is_jpeg(page) else (_RGB,)}
    return (
        int(page.photometric) in lights.get(page.samplesperpixel - alpha, ())
        and page.bitspersample in (8, 16)
        and int(page.sampleformat) == 1
        and int(page.planarconfig) == 1
        and page.imagedepth == 1
        and page.tags.valueof(274, default=1) == 1
    )


def _is_jpeg(page: Any) -> bool:
    return int(page.compression) in _JPEG


class TiffParts:
    """A TIFF picture whose regions are read tile by tile or strip by strip. Thread-safe."""

    def __init__(self, page: Any, file: BinaryIO, max_pixels: int) -> None:
        self._page, self._file, self._max_pixels = page, file, max_pixels
        self.size: tuple[int, int] = (page.imagewidth, page.imagelength)
        if page.is_tiled:
            self._segment = page.tilewidth, page.tilelength
        else:
            self._segment = page.imagewidth, min(page.rowsperstrip, page.imagelength)
        self._across = -(-self.size[0] // self._segment[0])
        self._bytes = self._segment[0] * self._segment[1] * page.samplesperpixel * page.bitspersample // 8
        if min(self._segment) < 1 or self._bytes > _SEGMENT_BYTES:
            raise DecodeFailure("too-many-pixels", f"its parts have {self._segment[0]:,} x {self._segment[1]:,} pixels")
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Return the pixels in ``box`` (left, top, right, bottom) as RGB. Raises DecodeFailure if a part is damaged."""
        left, top, right, bottom = box
        if (right - left) * (bottom - top) > self._max_pixels:
            raise DecodeFailure("too-many-pixels", f"a region of {right - left:,} x {bottom - top:,} pixels")
        w, h = self._segment
        with as_failure():
            pixels: NDArray[Any] | None = None
            for row in range(top // h, (bottom - 1) // h + 1):
                for column in range(left // w, (right - 1) // w + 1):
                    with self._lock:
                        segment = self._unpacked(row * self._across + column)
                    x, y = column * w, row * h
                    part = segment[max(top - y, 0) : bottom - y, max(left - x, 0) : right - x]
                    if pixels is None:
                        pixels = np.empty((bottom - top, right - left, segment.shape[2]), segment.dtype)
                    pixels[max(y - top, 0) :, max(x - left, 0) :][: part.shape[0], : part.shape[1]] = part
            assert pixels is not None
            if pixels.dtype != np.uint8:
                # Take the high byte, as Pillow does for 16-bit colour.
                pixels = (pixels >> 8).astype(np.uint8)
            return to_rgb(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))

    def _unpacked(self, index: int) -> NDArray[Any]:
        """Return the tile or strip number ``index`` as (height, width, samples). The caller must hold the lock."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        page = self._page
        start, count = int(page.dataoffsets[index]), int(page.databytecounts[index])
        if not 0 < count <= _SEGMENT_BYTES:
            raise DecodeFailure("corrupt", f"part {index:,} of the picture has {count:,} bytes")
        self._file.seek(start)
        data = self._file.read(count)
        if len(data) < count:
            raise DecodeFailure("truncated", f"part {index:,} of the picture is cut off")
        found = page.decode(data, index, jpegtables=page.jpegtables)[0]
        if found is None:
            raise DecodeFailure("corrupt", f"part {index:,} of the picture is empty")
        segment: NDArray[Any] = found[0]
        self._kept[index] = segment
        while len(self._kept) > 1 and len(self._kept) * self._bytes > CACHED_BYTES:
            self._kept.popitem(last=False)
        return segment
