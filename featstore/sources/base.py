"""What every source of pictures yields: chunks of columns, in one deterministic order.

Names are bytes, as the operating system has them. Where text is needed (JSON, labels, messages) they are
``os.fsdecode``d: bytes that are no UTF-8 become lone surrogates (PEP 383), which JSON writes as ASCII escapes
and ``os.fsencode`` turns back into the same bytes.
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
from featstore.text import composed

Scalar = str | int | float | bool | None

ROWS: Final = 16384
"""Inputs of one chunk."""
PICTURE_EXTENSIONS: Final = frozenset(
    b"jpg jpeg jpe jfif jif png apng gif bmp dib webp tif tiff ppm pgm pbm pnm pfm pcx tga "
    b"jp2 j2k jpf jpx jxl avif avifs heic heif hif qoi".split()
)
"""Names with these endings, in any case, are taken for pictures; whether they can be decoded shows later."""
_LARGEST: Final = (1 << 63) - 1
_WHOLE: Final = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
"""A whole number written as a float, as pandas writes a column of integers in which one is missing."""


@dataclass(frozen=True)
class Chunk:
    """Columns of up to ``rows`` inputs, in source order; each has length ``len(chunk)``.

    ``keys``: stable keys, any bytes, never empty. ``sizes``, ``mtimes``, ``offsets``: int64 of shape (n,).
    ``sizes`` is in bytes, ``mtimes`` in ns since the epoch (in a tar: the member header's), both -1 where the
    input is missing or not a regular file. ``offsets``: -1 for a file of its own, else the byte offset of the
    member's data in its archive. ``locations``: paths relative to the source's root, or absolute; None: the
    keys are the locations. ``metadata``: all other columns, the same names in every chunk of a source.
    """

    keys: list[bytes]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    locations: list[bytes] | None
    labels: list[str | None]
    splits: list[str | None]
    metadata: dict[str, list[Scalar]]

    def __len__(self) -> int:
        return len(self.keys)


class Source(Protocol):
    """Where pictures come from: a folder, a table, tar archives or a list of paths."""

    kind: str
    """"folder", "table", "tar" or "list"."""
    location: str
    """Absolute path of what was named ("-" for stdin), ``os.fsdecode``d."""
    root: Path
    """Where relative locations are resolved."""
    layout: str | None
    """The rule by which a folder's paths give labels and splits; None for other kinds."""
    notes: list[str]
    """What may surprise about how the source is read, with the option that changes it; complete after ``chunks``."""
    ignored: int
    """Files that the last complete run of ``chunks`` passed over because of their names."""
    read_as: str
    """After a complete run of ``chunks``: how many classes, splits and columns were found, and where, in one line."""
    unfound: str
    """Why files that the source names are not there, as far as their names tell; "" where they do not."""

    def describe(self) -> dict[str, Any]:
        """Return kind, location, root and the layout or columns used, as JSON."""
        ...

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all inputs in chunks of ``rows`` (the last may be shorter); can be called again.

        Raises UsageError where there is no input at all or the source is not well formed, FeatstoreError
        where part of it cannot be read.
        """
        ...


class Row(NamedTuple):
    """One input, before it becomes part of a Chunk; ``location`` None: the key is the location."""

    key: bytes
    size: int
    mtime: int
    offset: int = -1
    location: bytes | None = None
    label: str | None = None
    split: str | None = None
    metadata: tuple[Scalar, ...] = ()


def chunked(inputs: Iterable[Row], rows: int, names: list[str]) -> Iterator[Chunk]:
    """Turn ``inputs`` into full chunks of ``rows``; ``names`` are those of each row's metadata."""
    if rows < 1:
        raise ValueError(f"rows must be at least 1, not {rows}")
    iterator = iter(inputs)
    while batch := list(itertools.islice(iterator, rows)):
        keys, sizes, mtimes, offsets, locations, labels, splits, metadata = zip(*batch, strict=True)
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
        )


def size_and_mtime(status: os.stat_result) -> tuple[int, int]:
    """Return size (bytes) and mtime (ns) of a regular file, (-1, -1) of anything else."""
    if not stat.S_ISREG(status.st_mode):
        return -1, -1
    return status.st_size, min(status.st_mtime_ns, _LARGEST)


def is_picture_name(name: bytes) -> bool:
    """Tell whether the ending of ``name`` is one of PICTURE_EXTENSIONS."""
    stem, dot, extension = name.rpartition(b".")
    return bool(dot and stem) and extension.lower() in PICTURE_EXTENSIONS


def without_dot(path: bytes) -> bytes:
    """Return ``path`` without a leading ``./``: the only normalisation that keys undergo."""
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    return path


class NoLabel(ValueError):
    """A value that can be no label or split: it has parts."""


def label_text(value: Any) -> str | None:
    """Return a label or split as text; "", NaN and None are None.

    Blanks around it are dropped, 3.0 and "3.0" are "3", decimals are written without trailing zeros, dates and times
    as ISO 8601, text in Unicode's composed form. Raises NoLabel for lists, structs and what else is no scalar.
    """
    if isinstance(value, bytes):
        value = os.fsdecode(value)
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
    """The bytes of a picture file or archive member, with the size and mtime (ns) that a Chunk gives for it."""

    data: bytes
    size: int
    mtime_ns: int


class ReadFailure(FeatstoreError):
    """A picture's bytes cannot be had. ``reason``: a stable slug; ``message``: one line for a person.

    Reasons: missing, permission, not-a-file, empty, too-large, outside-root, changed-while-read, io-error.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message
