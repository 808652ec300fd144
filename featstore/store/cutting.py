"""Read and decode one picture once, for all regions that are cut from it."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from pathlib import Path
from typing import Any, BinaryIO, Final

from PIL import Image

from featstore import defaults
from featstore.decode import DecodeFailure
from featstore.decode.opening import picture_size
from featstore.decode.regions import Croppable, open_whole, region_of
from featstore.decode.tiff import CACHED_BYTES, open_parts
from featstore.sources.base import ReadFailure, size_and_mtime
from featstore.sources.reading import open_picture_file, read_picture
from featstore.store.rows import Region

_BLOCK_BYTES: Final = 1 << 20


class CutPicture:
    """A picture from which regions are cut; read and decoded lazily, once. Thread-safe.

    Parameters: as in read_picture. If reading or decoding fails, each use of the picture raises the error again.
    """

    def __init__(self, root: Path, location: bytes, offset: int, size: int, *, max_pixels: int, max_bytes: int) -> None:
        self._place = root, location, offset, size
        self._max_pixels, self._max_bytes = max_pixels, max_bytes
        self._lock = threading.Lock()
        self._data: bytes | None = None
        self._file: BinaryIO | None = None
        self._stat: tuple[int, int] = (-1, -1)
        self._digest = b""
        self._decoded: Croppable | None = None
        self._failure: ReadFailure | DecodeFailure | None = None

    def read(self) -> bytes:
        """Read the picture; return the SHA-256 of its bytes. Raises ReadFailure if the picture is unreadable, OSError
        if this process lacks memory or handles.
        """
        with self._lock:
            if not self._digest:
                self._once(self._read)
            return self._digest

    def decode(self) -> None:
        """Decode the picture; if its parts can be read separately, only open it. Raises ReadFailure or DecodeFailure if
        the picture is unreadable.
        """
        with self._lock:
            if self._decoded is None:
                self._once(self._decode)

    def region(self, region: Region | None) -> Image.Image:
        """Return ``region``, or the whole picture if None, as an RGB image. Raises ReadFailure or DecodeFailure if the
        picture is unreadable.
        """
        self.read()
        self.decode()
        picture = self._decoded
        assert picture is not None
        if self._file is not None and size_and_mtime(os.fstat(self._file.fileno())) != self._stat:
            raise ReadFailure("changed-while-read", "the picture changed while its regions were read")
        return region_of(picture, (0, 0, *picture.size) if region is None else region[:4])

    @property
    def held(self) -> int:
        """Approximate size of the picture in memory, in bytes."""
        if self._file is not None:
            return CACHED_BYTES
        picture = self._decoded
        return len(self._data or b"") if picture is None else 3 * picture.size[0] * picture.size[1]

    def _once(self, work: Any) -> None:
        if self._failure is None:
            try:
                work()
            except (ReadFailure, DecodeFailure) as failure:
                self._failure = failure
        if self._failure is not None:
            raise self._failure

    def _read(self) -> None:
        root, location, offset, size = self._place
        if offset < 0:
            file = open_picture_file(root, location)
            close = weakref.finalize(self, file.close)
            self._stat = size_and_mtime(os.fstat(file.fileno()))
            self._decoded = open_parts(file, self._max_pixels)
            if self._decoded is not None:
                self._file = file
                file.seek(0)
                self._digest = _digest(file)
                return
            close()
        self._data = read_picture(root, location, offset, size, limit=self._max_bytes).data
        self._digest = hashlib.sha256(self._data).digest()

    def _decode(self) -> None:
        assert self._data is not None
        self._decoded, self._data = open_whole(self._data, self._max_pixels), None


def _digest(file: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.digest()


def measure(root: Path, location: bytes, offset: int, size: int) -> tuple[int, int] | None:
    """Return width and height of the upright picture, read from the start of its file; None if that is impossible."""
    try:
        if offset >= 0:
            return picture_size(read_picture(root, location, offset, size, limit=defaults.MAX_FILE_BYTES).data)
        with open_picture_file(root, location) as file:
            return picture_size(file)
    except (ReadFailure, DecodeFailure):
        return None
