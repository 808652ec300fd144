"""Regions of pictures: boxes from a table, and tiles of every picture of a source.

The key of a region is the key of its picture (its parent), "#" and the region's name. Boxes are in pixels of the
upright picture, that is after its EXIF orientation. Sizes of pictures are read from the beginnings of their files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from featstore.errors import UsageError
from featstore.sources.base import ROWS, Chunk, Row, Source, chunked
from featstore.text import counted, quoted, shown, to_bytes

Measure = Callable[[Path, bytes, int, int], tuple[int, int] | None]
"""Function that takes (root, location, offset, size) of a picture and returns its (width, height); None if unreadable."""
UNITS: Final = ("auto", "pixels", "shares")
NO_NUMBER: Final = -(1 << 31)
"""Value that replaces NaN or infinity in a box."""
_LARGEST: Final = (1 << 31) - 1
_SHARES_UP_TO: Final = 1.5
"""Boxes are fractions of the picture if no number is larger than this. The limit is above 1, because detectors may
return fractions slightly above 1."""
_REMEMBERED: Final = 4096
"""Number of pictures whose sizes are remembered."""
LARGEST_TILE: Final = 1 << 15
REGION_NAMES: Final = ("region", "region_id", "box_id", "annotation_id")
Size = tuple[int, int]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Cut:
    """How pictures are cut into regions: by boxes, or into tiles. Raises UsageError for invalid values.

    ``measure``: function that returns the width and height of a picture. ``boxes``: names of the columns for left, top,
    width and height; ``unit``: unit of the boxes, one of UNITS; ``region_column``: column with the names of the
    regions, "" for none (see box_name). ``tiles``: side of square tiles in pixels; ``overlap``: pixels by which
    neighbouring tiles overlap.
    """

    measure: Measure
    boxes: tuple[str, ...] | None = None
    unit: str = "auto"
    region_column: str | None = None
    tiles: int | None = None
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.boxes is not None and (len(self.boxes) != 4 or len(set(self.boxes)) < 4):
            raise UsageError(f"boxes: {','.join(self.boxes)!r} has to name four columns, such as x,y,w,h")
        if self.unit not in UNITS:
            raise UsageError(f"box_unit: {self.unit!r} is not one of {', '.join(UNITS)}")
        if self.boxes is not None and self.tiles is not None:
            raise UsageError("boxes and tiles exclude each other; make a store for each")
        if self.tiles is not None and not 1 <= self.tiles <= LARGEST_TILE:
            raise UsageError(f"tiles: {self.tiles!r} is no side in pixels (1 to {LARGEST_TILE:,})")
        if not 0 <= self.overlap < (self.tiles or 1):
            raise UsageError(f"overlap: {self.overlap!r} has to be at least 0 and less than the tiles' side")
        if self.boxes is None and (self.unit != "auto" or self.region_column is not None):
            raise UsageError("box_unit and region_column are for the boxes of a table; name their columns with boxes")


class Sizes:
    """Cache of picture sizes. A picture with several rows is measured only once if these rows are close together."""

    def __init__(self, measure: Measure, root: Path) -> None:
        self._measure, self._root = measure, root
        self._known: dict[tuple[bytes, int], Size | None] = {}

    def __call__(self, location: bytes, offset: int, size: int) -> Size | None:
        """Return width and height of a picture, None if it is missing or unreadable."""
        at = location, offset
        if at not in self._known:
            if len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[at] = self._measure(self._root, location, offset, size) if size >= 0 else None
        return self._known[at]


class Boxes:
    """Turn the boxes of a source into regions in whole pixels, clipped to the picture; count clipped and bad boxes."""

    def __init__(self, sizes: Sizes, shares: bool) -> None:
        self._sizes, self.shares = sizes, shares
        self._counts: dict[str, tuple[int, bytes]] = {}
        self.whole = 0

    def row(self, row: Row, values: Sequence[float] | None, name: bytes | None, location: bytes) -> Row:
        """Return the row of a region of the picture in ``row``.

        ``values``: x, y, width, height; None means the whole picture, so ``row`` is returned. ``name``: name of the
        region; None means box_name(values).
        """
        if values is None:
            self.whole += 1
            return row
        key = row.key + b"#" + (box_name(values) if name is None else name)
        size = self._sizes(location, row.offset, row.size)
        box = self._settled(values, size, key)
        return row._replace(key=key, location=location, region=(*box, len(row.key)))

    def notes(self) -> list[str]:
        """Return notes on boxes that were clipped, and on boxes whose extraction will fail."""
        told = {
            "clipped": "beyond its picture and is clipped|beyond their pictures and are clipped",
            "outside": "outside its picture: a failure|outside their pictures: failures",
            "no area": "without an area in pixels: a failure|without an area in pixels: failures",
            "no number": "with a value that is no number: a failure|with values that are no numbers: failures",
        }
        notes = []
        for what, text in told.items():
            if what in self._counts:
                count, first = self._counts[what]
                one, many = text.split("|")
                verb = (
                    ("reaches " if count == 1 else "reach ") if what == "clipped" else "is " if count == 1 else "are "
                )
                notes.append(
                    f"{counted(count, 'box', 'boxes')} {verb}{one if count == 1 else many} (the first: {quoted(first)})"
                )
        return notes

    def _count(self, what: str, key: bytes) -> None:
        count, first = self._counts.get(what, (0, key))
        self._counts[what] = count + 1, first

    def _settled(self, values: Sequence[float], size: Size | None, key: bytes) -> Box:
        if not all(map(math.isfinite, values)):
            self._count("no number", key)
            return _whole(values[0]), _whole(values[1]), _whole(values[2]), _whole(values[3])
        x, y, w, h = values
        if self.shares:
            if size is None:
                # The picture cannot be read, so this box will never be used.
                return NO_NUMBER, NO_NUMBER, NO_NUMBER, NO_NUMBER
            x, y, w, h = x * size[0], y * size[1], w * size[0], h * size[1]
        left, top, right, bottom = _whole(x), _whole(y), _whole(x + w), _whole(y + h)
        box = left, top, min(right - left, _LARGEST), min(bottom - top, _LARGEST)
        if right <= left or bottom <= top:
            self._count("no area", key)
            return left, top, max(box[2], -_LARGEST), max(box[3], -_LARGEST)
        if size is None:
            return box
        clipped = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            self._count("outside", key)
            return box
        if clipped != (left, top, right, bottom):
            self._count("clipped", key)
        return clipped[0], clipped[1], clipped[2] - clipped[0], clipped[3] - clipped[1]


def box_name(values: Sequence[float]) -> bytes:
    """Return the default name of a region: "x,y,width,height" of its box, in the shortest decimal form.

    The numbers are those in the source, before rounding and clipping. Thus the key of a region does not depend on the
    other regions or their order.
    """
    numbers = [float(value) for value in values]
    short = [int(each) if each.is_integer() and abs(each) <= _LARGEST else each for each in numbers]
    return ",".join(map(str, short)).encode()


def _whole(value: float) -> int:
    """Return ``value`` rounded to whole pixels, limited to +-(2^31 - 1); return NO_NUMBER for NaN and infinity."""
    return max(-_LARGEST, min(_LARGEST, math.floor(value + 0.5))) if math.isfinite(value) else NO_NUMBER


def number_of(value: Any) -> float | None:
    """Return a value of a box as a float, None for a missing value. Raises ValueError if ``value`` is not a number."""
    if value is None or value == "" or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"is a {type(value).__name__}")
    return float(value)


def are_shares(boxes: Iterator[Sequence[float] | None]) -> bool:
    """Return whether ``boxes`` are fractions of the picture, that is, no number is larger than 1.5."""
    return not any(
        abs(value) > _SHARES_UP_TO for box in boxes if box is not None for value in box if math.isfinite(value)
    )


class TiledSource:
    """A source of square tiles: every picture of the source ``inner`` is cut, from left to right and top to bottom.

    The last tile in a row or column is shifted inwards, so that all tiles have the full size. If a side of the picture
    is shorter than a tile, the tile is as short. The name of a tile is "x,y,w,h". A picture whose size cannot be read
    is a single row, which fails when it is extracted.
    """

    def __init__(self, inner: Source, cut: Cut) -> None:
        self._inner, self._cut = inner, cut
        self.kind, self.location, self.root, self.layout = inner.kind, inner.location, inner.root, inner.layout
        self.notes: list[str] = []
        self.ignored, self.read_as, self.unfound = 0, "", ""

    def describe(self) -> dict[str, Any]:
        """Return the description of the inner source as JSON, with the size and overlap of the tiles added."""
        return {**self._inner.describe(), "cut": {"tiles": self._cut.tiles, "overlap": self._cut.overlap}}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all tiles; see Source.chunks."""
        # Copy the location here and not in the constructor, because extraction workers set it after construction.
        self._inner.location = self.location
        names: list[str] = []
        pictures = tiles = 0
        sizes = Sizes(self._cut.measure, self.root)

        def cut() -> Iterator[Row]:
            nonlocal pictures, tiles
            for chunk in self._inner.chunks(rows):
                names[:] = list(chunk.metadata)
                pictures += len(chunk)
                for row in rows_of(chunk):
                    for tile in self._tiles(row, sizes):
                        tiles += 1
                        yield tile

        yield from chunked(cut(), rows, names)
        inner = self._inner
        side, overlap = self._cut.tiles, f" with an overlap of {self._cut.overlap}" if self._cut.overlap else ""
        self.read_as = (
            f"{inner.read_as}; {counted(pictures, 'picture')} cut into {counted(tiles, 'tile')} of {side} x {side} "
            f"pixels{overlap}"
        )
        self.notes, self.ignored, self.unfound = inner.notes, inner.ignored, inner.unfound

    def _tiles(self, row: Row, sizes: Sizes) -> Iterator[Row]:
        location = row.key if row.location is None else row.location
        size = sizes(location, row.offset, row.size)
        if size is None:
            yield row
            return
        side = self._cut.tiles or 1
        w, h = min(side, size[0]), min(side, size[1])
        for y in places(size[1], side, self._cut.overlap):
            for x in places(size[0], side, self._cut.overlap):
                key = row.key + b"#%d,%d,%d,%d" % (x, y, w, h)
                yield row._replace(key=key, location=location, region=(x, y, w, h, len(row.key)))


def places(length: int, side: int, overlap: int) -> list[int]:
    """Return the start positions of the tiles that cover ``length`` pixels; the last tile is shifted inwards."""
    last = max(length - side, 0)
    return [*range(0, last, side - overlap), last]


def rows_of(chunk: Chunk) -> Iterator[Row]:
    """Yield the inputs of ``chunk`` one by one; all must be whole pictures."""
    locations = chunk.locations if chunk.locations is not None else [None] * len(chunk)
    values = zip(*chunk.metadata.values(), strict=True) if chunk.metadata else iter([()] * len(chunk))
    columns = (chunk.keys, chunk.sizes.tolist(), chunk.mtimes.tolist(), chunk.offsets.tolist(), locations)
    for key, size, mtime, offset, location, label, split, metadata in zip(
        *columns, chunk.labels, chunk.splits, values, strict=True
    ):
        yield Row(key, size, mtime, offset, location, label, split, tuple(metadata))


def region_name(value: Any, where: str) -> bytes:
    """Return the name of a region as bytes. Raises UsageError that names the place ``where`` if the name is missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None or value != value else str(value).strip()
    if not text:
        raise UsageError(f"{shown(where)} has no name of its region; fill it in, or leave out the region column")
    return to_bytes(text)
