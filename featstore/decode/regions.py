"""Cut regions from a picture.

The picture is decoded once for all its regions; of a large TIFF file only the needed tiles or strips are read. A region
is cut from the upright picture in RGB (see pillow.py), before resizing. Its pixels and features equal those of a PNG
file that contains only the region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from featstore.decode.pillow import load_rgb
from featstore.decode.preprocessing import DecodeFailure

NO_NUMBER = -(1 << 31)
"""Value that replaces a missing or invalid number in a box."""


class Croppable(Protocol):
    """A picture from which regions can be cut. ``size``: (width, height) of the upright picture."""

    @property
    def size(self) -> tuple[int, int]: ...

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Return the pixels in ``box`` (left, top, right, bottom) as RGB. The box must be inside the picture."""
        ...


def open_whole(data: bytes, max_pixels: int) -> Croppable:
    """Decode the picture file ``data``. Raises DecodeFailure if it is unreadable."""
    return load_rgb(data, max_pixels=max_pixels)


def region_of(picture: Croppable, box: Sequence[int]) -> Image.Image:
    """Return the region ``box`` (x, y, width, height) of ``picture``, clipped to it.

    Raises DecodeFailure "bad-box" if a value of the box is NO_NUMBER, or no pixel of the picture is inside the box.
    """
    x, y, w, h = box
    if NO_NUMBER in (x, y, w, h):
        raise DecodeFailure("bad-box", "a value of the box is no number")
    if w < 1 or h < 1:
        raise DecodeFailure("bad-box", f"the box of {w:,} x {h:,} pixels has no area")
    width, height = picture.size
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if right <= left or bottom <= top:
        raise DecodeFailure(
            "bad-box",
            f"the box at {x:,}, {y:,} of {w:,} x {h:,} is outside the picture of {width:,} x {height:,} pixels",
        )
    return picture.crop((left, top, right, bottom))
