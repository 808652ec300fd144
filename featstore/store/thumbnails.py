"""Thumbnails for HTML pages, embedded as data: URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featstore.store.pictures import NoPicture

if TYPE_CHECKING:
    from PIL import Image

    from featstore.store.pictures import Pictures

SIDE = 224
"""Length in pixels of a thumbnail's longer side; HTML pages show it at 112 to 160 CSS pixels."""
_TINY = 64


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail for an HTML page.

    ``uri``: the picture as a data: URI, or None with the reason in ``note``. ``tiny``: whether to enlarge the picture
    without smoothing. ``address``: URL of the original picture, "" if there is none.
    """

    uri: str | None
    tiny: bool = False
    note: str = ""
    address: str = ""


def thumbnail_of(pictures: Pictures, key: str) -> Thumbnail:
    """Return the picture of ``key`` as a thumbnail with the URL of the original file."""
    return thumbnail(lambda: pictures(key), pictures.address(key))


def thumbnail(picture: Callable[[], Image.Image], address: str = "") -> Thumbnail:
    """Return the image that ``picture()`` returns as a thumbnail; if the picture is missing, ``note`` has the reason."""
    try:
        image = picture()
    except NoPicture as failure:
        return Thumbnail(None, note=f"{failure.reason}: {failure.message}")
    tiny = max(image.size) <= _TINY
    if not tiny:
        image.thumbnail((SIDE, SIDE))
    return Thumbnail(data_uri(image, "png" if tiny else "jpeg"), tiny, address=address)


def data_uri(image: Image.Image, kind: str = "png") -> str:
    """Return ``image`` as a data: URI in the format "png" or "jpeg"."""
    buffer = io.BytesIO()
    options = {"quality": 84} if kind == "jpeg" else {"optimize": True}
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
