"""Find the picture of a key through the plan of the store, read it and decode it.

An untrusted store may name any file as a picture. So a file that is named only by the store is shown only if its bytes
have the SHA-256 recorded in the store. Otherwise a store could reveal files whose content its maker did not know. Every
file below a root folder that the user names may be shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

import numpy as np

from featstore import defaults
from featstore.decode import DecodeFailure
from featstore.sources.base import ReadFailure
from featstore.sources.reading import encoded, resolve
from featstore.store import FeatureStore
from featstore.store.cutting import CutPicture
from featstore.store.places import place_of
from featstore.store.rows import Region
from featstore.text import counted, to_text

if TYPE_CHECKING:
    from PIL import Image

Picture = Callable[[str], "Image.Image"]
"""Function that takes a key and returns its picture; raises NoPicture."""


class NoPicture(Exception):
    """The picture of a key is not available; ``reason`` as in ``featstore failures``, or "unknown-key"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message


class Pictures:
    """The pictures of a store or, without a store, the files below ``root``.

    ``root``: the present folder of the pictures, if they were moved since the extraction.
    """

    def __init__(self, store: FeatureStore | None, root: str | os.PathLike[str] | None = None) -> None:
        self.store, self.root = store, None if root is None else Path(root)
        self._gone = 0

    def __call__(self, key: str) -> Image.Image:
        """Return the picture or region of ``key`` as a PIL image (RGB, upright). Raises NoPicture if it is not
        available.
        """
        try:
            return open_picture(*self._place(key))
        except NoPicture as failure:
            self._gone += failure.reason in ("missing", "unknown-key", "changed", "imported")
            raise

    def address(self, key: str) -> str:
        """Return the ``file:`` URL of the picture of ``key``; "" if the picture has no own file (in an archive)."""
        try:
            return address_of(*self._place(key)[:3])
        except NoPicture:
            return ""

    def notes(self) -> list[str]:
        """Return the warning that requested pictures were not found at their paths, with the remedy."""
        if not self._gone:
            return []
        where = "where the store says" if self.root is None else f"below {self.root}"
        return [
            f"{counted(self._gone, 'picture of this page is', 'pictures of this page are')} not {where}: --root says where they are now"
        ]

    def _place(self, key: str) -> tuple[Path, bytes, int, int, bytes | None, Region | None]:
        name = key.encode("utf-8", "surrogateescape")
        if self.store is None:
            if self.root is None:
                raise NoPicture("unknown-key", "the store is not there; say with root where the pictures are")
            return self.root, name, -1, -1, None, None
        place = place_of(self.store._plan, name)
        if place is not None:
            found = place.location, place.offset, place.size
            if self.root is not None:
                return self.root, *found, None, place.region
            content = self.store._content(np.array([place.id], np.int64))[0].tobytes()
            return place.root, *found, content, place.region
        raise NoPicture("unknown-key", f"{self.store.path}: no picture has this key any more")


def address_of(root: Path, location: bytes, offset: int = -1) -> str:
    """Return the ``file:`` URL of a picture file; "" for a member of an archive, or if the file does not exist."""
    try:
        path = os.path.abspath(resolve(encoded(root), location))
    except ReadFailure:
        return ""
    return "file://" + quote_from_bytes(path) if offset < 0 and os.path.isfile(path) else ""


def open_picture(
    root: Path,
    location: bytes,
    offset: int = -1,
    size: int = -1,
    content: bytes | None = None,
    region: Region | None = None,
) -> Image.Image:
    """Read a picture file or an archive member, and return it, or its ``region``, as a PIL image (RGB, upright).

    ``content``: the SHA-256 that the picture's bytes must have; None accepts any bytes. Raises NoPicture if it is not
    available.
    """
    if content is not None and not any(content):
        raise NoPicture(
            "imported", "its features were imported without the picture; --root says where the pictures are"
        )
    limits = {"max_pixels": defaults.MAX_PIXELS, "max_bytes": defaults.MAX_FILE_BYTES}
    picture = CutPicture(root, location, offset, size, **limits)
    try:
        if picture.read() != content and content is not None:
            where = to_text(os.path.join(encoded(root), location))
            raise NoPicture("changed", f"{where}: its bytes are not those that the store knows")
        return picture.region(region)
    except (ReadFailure, DecodeFailure) as failure:
        raise NoPicture(failure.reason, failure.message) from None
