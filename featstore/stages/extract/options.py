"""The options of an extraction: one object for the Python function, the command and the worker process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from featstore import defaults
from featstore.embed.recipe import Request
from featstore.errors import UsageError
from featstore.sources import Source, open_source
from featstore.sources.regions import Cut
from featstore.store.as_source import KIND, StoreSource, is_store
from featstore.store.manifest import LARGEST_UNIT

if TYPE_CHECKING:
    from featstore.backbones import Backbone

_OF_SOURCE: Final = (
    "kind", "root", "layout", "path_column", "label_column", "split_column", "id_column", "all_files",
)  # fmt: skip
_AT_LEAST_ONE: Final = (
    "batch", "workers", "unit_rows", "max_pixels", "max_bytes", "max_memory",
)  # fmt: skip


def _measure(root: Path, location: bytes, offset: int, size: int) -> tuple[int, int] | None:
    # Import this lazily, because it imports Pillow: without boxes and tiles, no picture is opened here.
    from featstore.store.cutting import measure

    return measure(root, location, offset, size)


class ExtractKeywords(TypedDict, total=False):
    """Keyword arguments of ``extract``: the fields of ExtractOptions, all optional."""

    backbone: str | Backbone | None
    weights: str | None
    engine: str
    device: str
    precision: str
    decode: str
    dtype: str | None
    size: int | None
    fit: str | None
    layer: str | None
    pool: str | None
    augment: str | None
    view: int | None
    augment_seed: int | None
    batch: int
    workers: int | None
    units: tuple[int, int]
    unit_rows: int | None
    retry_failures: bool
    rehash: bool
    max_pixels: int
    max_bytes: int
    max_memory: int
    stall_seconds: float
    kind: str | None
    root: str | os.PathLike[str] | None
    layout: str | None
    path_column: str | None
    label_column: str | None
    split_column: str | None
    id_column: str | None
    all_files: bool
    boxes: tuple[str, ...] | None
    box_unit: str
    region_column: str | None
    tiles: int | None
    overlap: int
    follow: bool


@dataclass(frozen=True)
class ExtractOptions:
    """Options of an extraction. Raises UsageError for a number that is out of range.

    The features of an existing store are fixed: backbone, weights, precision, decode, dtype, size, fit, layer, pool
    and augmentation are by default those of the store. The defaults listed below for these options apply to a new
    store.

    Attributes
    ----------
    backbone
        Name, "package.module:function", or a loaded backbone; default: defaults.BACKBONE.
    weights
        Name or file of the weights; default: the backbone's default weights.
    engine, device
        What runs the network ("auto", "torch", "openvino", ...), and on which device ("auto", "cpu", "cuda").
    precision
        Precision of the arithmetic, see featstore.engines.open_engine.
    decode
        "exact": pixels equal to those of torchvision's transforms, bit for bit; "fast": each pixel value (0..255)
        differs from the exact value by at most 1 (with bicubic interpolation: 2). Default for a new store: "exact".
    dtype
        Type of the stored numbers; default: defaults.DTYPE.
    size
        Side in pixels of the square input of the network; default: as the authors of the weights chose it.
    fit
        How a picture becomes a square: "crop", its centre; "squash", the whole picture, with another aspect ratio;
        "pad", the whole picture with a margin. See Preprocessing. Default: as the authors of the weights chose it.
    layer
        Module of the network whose output is used; default: the penultimate layer.
    pool
        How the layer's output becomes a vector: "avg", "max", "cls", "cls+mean" or "none"; see
        featstore.backbones.layers.take.
    augment, view, augment_seed
        Extract augmented pictures: the policy ("light" or "standard"), the number of this view (1, 2, ...), and the
        seed, see featstore.decode.augment. Default: the pictures as they are, which is view 0.
    batch
        Number of pictures in a forward pass.
    workers
        Number of decoding threads; default: one per core. defaults.READERS further threads read files ahead.
    units
        (i, n): extract only the units (shards) whose number is i modulo n, to share the work between n processes.
    unit_rows
        Number of pictures in a full unit; fixed when the store is created.
    retry_failures
        Whether to try pictures again that failed in earlier runs.
    rehash
        Whether to detect changed files by their content instead of size and time.
    max_pixels, max_bytes
        A picture with more pixels, or a larger file, becomes a failure.
    max_memory
        Largest number of bytes that decoding one picture may take; a picture that needs more becomes a failure.
    stall_seconds
        In a supervised extraction, a picture that takes longer becomes a failure.
    kind
        Kind of source, see featstore.sources.open_source; "store": another store, with its labels, splits and metadata.
    root, layout, path_column, label_column, split_column, id_column, all_files
        How to read the source, see featstore.sources.open_source.
    boxes, box_unit, region_column, tiles, overlap
        Which regions of a picture become rows, see featstore.sources.regions.Cut.
    follow
        Whether the store always uses the labels, splits and metadata of its source, another store, instead of copies.
    """

    backbone: str | Backbone | None = None
    weights: str | None = None
    engine: str = defaults.ENGINE
    device: str = "auto"
    precision: str = "auto"
    decode: str = defaults.DECODE
    dtype: str | None = None
    size: int | None = None
    fit: str | None = None
    layer: str | None = None
    pool: str | None = None
    augment: str | None = None
    view: int | None = None
    augment_seed: int | None = None
    batch: int = defaults.BATCH
    workers: int | None = None
    units: tuple[int, int] = (0, 1)
    unit_rows: int | None = None
    retry_failures: bool = False
    rehash: bool = False
    max_pixels: int = defaults.MAX_PIXELS
    max_bytes: int = defaults.MAX_FILE_BYTES
    max_memory: int = defaults.MAX_MEMORY
    stall_seconds: float = defaults.STALL_SECONDS
    kind: str | None = None
    root: str | os.PathLike[str] | None = None
    layout: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    id_column: str | None = None
    all_files: bool = False
    boxes: tuple[str, ...] | None = None
    box_unit: str = "auto"
    region_column: str | None = None
    tiles: int | None = None
    overlap: int = 0
    follow: bool = False

    def __post_init__(self) -> None:
        units = self.units
        if not (isinstance(units, tuple) and len(units) == 2 and 0 <= units[0] < units[1]):
            raise UsageError(f"units: {units!r} is not i/n with 0 <= i < n")
        small = [name for name in _AT_LEAST_ONE if (value := getattr(self, name)) is not None and not value >= 1]
        if small:
            raise UsageError(f"{small[0]}: {getattr(self, small[0])!r} is less than 1")
        if not self.stall_seconds > 0:
            raise UsageError(f"stall_seconds: {self.stall_seconds!r} is not more than 0")
        if self.unit_rows is not None and self.unit_rows > LARGEST_UNIT:
            raise UsageError(f"unit_rows: {self.unit_rows:,} is more than {LARGEST_UNIT:,}")
        _ = self.request.geometry, self.request.augmentation  # these properties raise UsageError for invalid values

    @property
    def request(self) -> Request:
        """The options that determine the features, for comparing them with a store's and for loading the network."""
        return Request(**{each.name: getattr(self, each.name) for each in fields(Request)})

    @property
    def threads(self) -> int:
        """Number of decoding threads."""
        return self.workers or os.cpu_count() or 1

    def open(self, source: str | os.PathLike[str] | Source) -> Source:
        """Open ``source`` with these options; return an open source unchanged. Raises the errors of open_source."""
        if not isinstance(source, str | os.PathLike):
            return source
        if self.kind == KIND or (self.kind is None and is_store(source)):
            names = (*_OF_SOURCE[2:], "boxes", "tiles")
            given = next((name for name in names if getattr(self, name) not in (None, False)), None)
            if given is not None:
                raise UsageError(f"{source}: a store as a source takes no {given}; leave it out")
            return StoreSource(source, root=self.root)
        if self.follow:
            raise UsageError(f"{source}: only a store can be followed; leave out --follow")
        return open_source(source, **{name: getattr(self, name) for name in _OF_SOURCE}, cut=self.cut)

    def measures(self, source: str) -> bool:
        """Return whether listing the rows of ``source`` has to read the width and height of its pictures."""
        return bool(self.boxes or self.tiles) or self.kind == "coco" or (self.kind is None and source.endswith(".json"))

    @property
    def cut(self) -> Cut:
        """How pictures are cut into regions (boxes or tiles), each of which becomes a row."""
        return Cut(_measure, self.boxes, self.box_unit, self.region_column, self.tiles, self.overlap)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON. Raises UsageError if the backbone is an object, not a name."""
        if self.backbone is not None and not isinstance(self.backbone, str):
            raise UsageError(
                "a loaded backbone cannot be passed to the supervised process; name it, or pass supervised=False"
            )
        value = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**value, "units": list(self.units), "root": None if self.root is None else os.fspath(self.root)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ExtractOptions:
        """Return the options from a dict that ``to_dict`` returned."""
        boxes = value.get("boxes")
        return cls(**{**value, "units": tuple(value["units"]), "boxes": None if boxes is None else tuple(boxes)})
