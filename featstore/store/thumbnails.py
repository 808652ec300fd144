"""Small pictures that are part of the page itself (data: URIs)."""

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
"""Pixels of a thumbnail's longer side: sharp at the 112 to 160 CSS pixels that pages give it."""
_TINY = 64


@dataclass(frozen=True)
class Thumbnail:
    """``uri``: the picture, None where there is none (then ``note`` says why); ``tiny``: to be enlarged by whole pixels.

    ``address`` of the original picture, "" where it has none.
    """

    uri: str | None
    tiny: bool = False
    note: str = ""
    address: str = ""


def thumbnail_of(pictures: Pictures, key: str) -> Thumbnail:
    """Return the picture of ``key`` as a thumbnail with the address of the original."""
    return thumbnail(lambda: pictures(key), pictures.address(key))


def thumbnail(picture: Callable[[], Image.Image], address: str = "") -> Thumbnail:
    """Return what ``picture`` returns as a thumbnail; a picture that cannot be had is a note, not an error."""
    try:
        image = picture()
    except NoPicture as failure:
        return Thumbnail(None, note=f"{failure.reason}: {failure.message}")
    tiny = max(image.size) <= _TINY
    if not tiny:
        image.thumbnail((SIDE, SIDE))
    return Thumbnail(data_uri(image, "png" if tiny else "jpeg"), tiny, address=address)


def data_uri(image: Image.Image, kind: str = "png") -> str:
    """Return ``image`` as a data: URI, "png" or "jpeg"."""
    buffer = io.BytesIO()
    options = {"quality": 84} if kind == "jpeg" else {"optimize": True}
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
