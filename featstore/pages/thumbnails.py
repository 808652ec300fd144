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

SIDE = 224
"""Pixels of a thumbnail's longer side: sharp at the 112 to 160 CSS pixels that pages give it."""
_TINY = 64


@dataclass(frozen=True)
class Thumbnail:
    """``uri``: the picture, None where there is none (then ``note`` says why); ``tiny``: to be enlarged by whole pixels."""

    uri: str | None
    tiny: bool = False
    note: str = ""


def thumbnail(picture: Callable[[], Image.Image]) -> Thumbnail:
    """Return what ``picture`` returns as a thumbnail; a picture that cannot be had is a note, not an error."""
    try:
        image = picture()
    except NoPicture as failure:
        return Thumbnail(None, note=f"{failure.reason}: {failure.message}")
    tiny = max(image.size) <= _TINY
    if not tiny:
        image.thumbnail((SIDE, SIDE))
    return Thumbnail(data_uri(image, "png" if tiny else "jpeg"), tiny)


def data_uri(image: Image.Image, kind: str = "png") -> str:
    """Return ``image`` as a data: URI, "png" or "jpeg"."""
    buffer = io.BytesIO()
    options = {"quality": 84} if kind == "jpeg" else {"optimize": True}
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
