"""The interface of all sources of pictures: chunks of columns, in one deterministic order.

Names are bytes, as in the operating system. For text (JSON, labels, messages) they are read as UTF-8, whatever the
locale: invalid UTF-8 becomes lone surrogates (PEP 383), which JSON writes as ASCII escapes and ``to_bytes`` converts
back to the same bytes.
"""

from __future__ import annotations

import datetime
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.errors import FeatstoreError
from featstore.text import composed, to_text

Scalar = str | int | float | bool | None

ROWS: Final = 16384
"""Number of inputs in a chunk."""
ADDRESS_HINT: Final = "addresses such as https:// or s3:// are not opened: download the pictures and name their files"
PICTURE_EXTENSIONS: Final = frozenset(
    b"jpg jpeg jpe jfif jif png apng gif bmp dib webp tif tiff ppm pgm pbm pnm pfm pcx tga "
    b"jp2 j2k jpf jpx jxl avif avifs heic heif hif qoi".split()
)
"""Extensions of picture files, in any case; decoding shows later whether a file is a picture."""
WHOLE: Final = (0, 0, 0, 0, 0)
"""The values in ``Chunk.regions`` for an input that is a whole picture."""
_LARGEST: Final = (1 << 63) - 1
_WHOLE: Final = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
"""Pattern of an integer written as a float, such as 3.0; pandas writes integers like this beside missing values."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive inputs (pictures or parts of pictures) of a source, as columns with n values each.

    ``keys``: stable keys, any bytes, never empty. ``sizes``, ``mtimes``, ``offsets``: int64 (n,). ``sizes`` in bytes
    and ``mtimes`` in ns since the epoch (in a tar: from the member's header); both are -1 if the input is missing or
    not a regular file. ``offsets``: byte offset of the member's data in its archive, -1 for a separate file.
    ``locations``: paths relative to the source's root, or absolute; None if the keys are the locations. ``metadata``:
    all other columns, with the same names in every chunk of a source. ``regions``: int32 (n, 5), for inputs that are
    parts of pictures: x, y, width and height in pixels, and the length of the picture's key (see regions.py); None if
    all inputs are whole pictures.
    """

    keys: list[bytes]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    locations: list[bytes] | None
    labels: list[str | None]
    splits: list[str | None]
    metadata: dict[str, list[Scalar]]
    regions: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: NDArray[np.int64]) -> Chunk:
        """Return a chunk with only the inputs at the indices ``rows`` (m,)."""
        some = rows.tolist()
        return Chunk(
            [self.keys[row] for row in some],
            self.sizes[rows],
            self.mtimes[rows],
            self.offsets[rows],
            None if self.locations is None else [self.locations[row] for row in some],
            [self.labels[row] for row in some],
            [self.splits[row] for row in some],
            {name: [values[row] for row in some] for name, values in self.metadata.items()},
            None if self.regions is None else self.regions[rows],
        )


class Source(Protocol):
    """A source of pictures: a folder, a table, tar archives or a list of paths."""

    kind: str
    """Kind of the source, such as "folder", "table", "parquet" (embedded pictures), "tar", "list" or "coco"."""
    location: str
    """Absolute path of the source ("-" for stdin), decoded with ``os.fsdecode``."""
    root: Path
    """Folder that the relative locations of pictures start from."""
    layout: str | None
    """Name of the rule that takes labels and splits from folder names; None if the source uses no such rule."""
    notes: list[str]
    """Notes that explain how the source was read if the user may not expect it, with the option that changes it. The
    list is complete after ``chunks`` has yielded all inputs."""
    ignored: int
    """Number of files that the last complete run of ``chunks`` skipped because of their names."""
    read_as: str
    """Summary in one line after a complete run of ``chunks``: classes, splits and columns, and where they were
    found."""
    unfound: str
    """Likely reasons why files named in the source are missing, guessed from the names; "" if unknown."""

    def describe(self) -> dict[str, Any]:
        """Return kind, location, root folder, and the layout or columns used by this source, as JSON types."""
        ...

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all inputs in chunks of ``rows`` (the last chunk may be shorter). Can be called again.

        Raises UsageError if there is no input or the source is malformed, FeatstoreError if a part of it cannot be
        read.
        """
        ...


class Row(NamedTuple):
    """One input of a Chunk. ``location`` None: the key is the location; ``region`` None: a whole picture."""

    key: bytes
    size: int
    mtime: int
    offset: int = -1
    location: bytes | None = None
    label: str | None = None
    split: str | None = None
    metadata: tuple[Scalar, ...] = ()
    region: tuple[int, int, int, int, int] | None = None


def chunked(inputs: Iterable[Row], rows: int, names: list[str]) -> Iterator[Chunk]:
    """Collect ``inputs`` into chunks of ``rows`` inputs. ``names``: names of the values in ``Row.metadata``."""
    if rows < 1:
        raise ValueError(f"rows must be at least 1, not {rows}")
    iterator = iter(inputs)
    while batch := list(itertools.islice(iterator, rows)):
        keys, sizes, mtimes, offsets, locations, labels, splits, metadata, regions = zip(*batch, strict=True)
        own = any(location is not None for location in locations)
        columns = list(zip(*metadata, strict=True))
        yield Chunk(
            keys=list(keys),
            sizes=np.array(sizes, np.int64),
            mtimes=np.array(mtimes, np.int64),
            offsets=np.array(offsets, np.int64),
            locations=[row.key if row.location is None else row.location for row in batch] if own else None,
            labels=list(labels),
            splits=list(splits),
            metadata={name: list(column) for name, column in zip(names, columns, strict=True)},
            regions=np.array([region or WHOLE for region in regions], np.int32) if any(regions) else None,
        )


def size_and_mtime(status: os.stat_result) -> tuple[int, int]:
    """Return size (bytes) and mtime (ns) of a regular file, (-1, -1) for anything else."""
    if not stat.S_ISREG(status.st_mode):
        return -1, -1
    return status.st_size, min(status.st_mtime_ns, _LARGEST)


def is_picture_name(name: bytes) -> bool:
    """Return whether the extension of ``name`` is in PICTURE_EXTENSIONS."""
    stem, dot, extension = name.rpartition(b".")
    return bool(dot and stem) and extension.lower() in PICTURE_EXTENSIONS


def without_dot(path: bytes) -> bytes:
    """Return ``path`` without a leading ``./``, the only normalisation of keys."""
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    return path


class NoLabel(ValueError):
    """Raised for a value that cannot be a label or split because it is not a scalar."""


def label_text(value: Any) -> str | None:
    """Return a label or split as text; None for "", NaN and None.

    Surrounding blanks are removed. 3.0 and "3.0" become "3", decimals lose trailing zeros, dates and times become ISO
    8601, text is normalised to NFC. Raises NoLabel for lists, structs and other non-scalars.
    """
    if isinstance(value, bytes):
        value = to_text(value)
    if isinstance(value, str):
        text = composed(value.strip())
        whole = _WHOLE.fullmatch(text)
        return (whole[1] if whole else text) or None
    if value is None or value != value:
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value.is_finite() else str(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return str(value)
    kind = (
        "a struct" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else type(value).__name__
    )
    raise NoLabel(f"is {kind}, which can be no label: it must be one text, number or date")


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture, with the size and mtime (ns) of its file or archive member, as in a Chunk."""

    data: bytes
    size: int
    mtime_ns: int


class ReadFailure(FeatstoreError):
    """A picture's bytes cannot be read. ``reason``: a word that never changes; ``message``: one line for users.

    Reasons: missing, permission, not-a-file, empty, too-large, outside-root, changed-while-read, io-error.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message
