"""Annotations in the JSON format of COCO: a row is a box of a picture, with the name of its category as the label.

Source of the format: https://cocodataset.org/#format-data (images, annotations with bbox [x, y, width, height] in
pixels, categories).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from featstore.errors import FeatstoreError, UsageError
from featstore.sources.base import ROWS, Chunk, Row, Scalar, chunked, label_text, without_dot
from featstore.sources.finding import Finder
from featstore.sources.regions import Boxes, Cut, Sizes, number_of
from featstore.sources.tally import Tally
from featstore.text import counted, shown, to_bytes

_OWN: Final = ("id", "image_id", "category_id", "bbox")


class CocoSource:
    """The boxes of a COCO annotation file, picture by picture, in the order of the list "images" in the file.

    The key of a row is the picture's file name, "#", and the annotation's id (without an id: the annotation's box).
    Other scalars of an annotation (score, area, iscrowd) are metadata. Relative paths are resolved against ``root``
    (default: the file's folder). Raises UsageError for other JSON.
    """

    kind: str = "coco"

    def __init__(self, path: Path, cut: Cut, *, root: Path | None = None) -> None:
        self._path, self._cut = Path(os.path.abspath(path)), cut
        self.location = str(self._path)
        self.root = Path(os.path.abspath(root)) if root is not None else self._path.parent
        self.notes: list[str] = []
        self.layout: str | None = None
        self.ignored, self.read_as, self.unfound = 0, "", ""

    def describe(self) -> dict[str, Any]:
        """Return kind, location and root folder of this source as JSON types, with an entry which says that its rows
        are boxes.
        """
        return {"kind": self.kind, "location": self.location, "root": str(self.root), "cut": {"boxes": True}}

    def chunks(self, rows: int = ROWS) -> Iterator[Chunk]:
        """Yield all annotations; see Source.chunks. Raises UsageError that names the annotation if an annotation is
        malformed.
        """
        data = self._load()
        names = {each.get("id"): label_text(each.get("name")) for each in self._listed(data, "categories", ())}
        boxes: dict[Any, list[dict[str, Any]]] = {each.get("id"): [] for each in self._listed(data, "images")}
        if len(boxes) < len(data["images"]):
            counts = Counter(each.get("id") for each in data["images"])
            doubled = next(name for name, count in counts.items() if count > 1)
            raise UsageError(
                f"{shown(self.location)}: {counts[doubled]:,} of its images have the id {shown(str(doubled))}; give each an id "
                "of its own, because annotations name their image by it"
            )
        metadata: dict[str, None] = {}
        for number, each in enumerate(self._listed(data, "annotations")):
            if each.get("image_id") not in boxes:
                told = shown(str(each.get("image_id")))
                raise self._wrong(f"annotation {number} is of the image {told}, which is not among its images")
            boxes[each["image_id"]].append(each)
            metadata.update(dict.fromkeys(name for name, value in each.items() if _is_metadata(name, value)))
        tally, find = Tally(), Finder(os.fsencode(self.root))
        found, unknown = Boxes(Sizes(self._cut.measure, self.root), False), Counter[str]()
        inputs = self._rows(data["images"], boxes, names, list(metadata), find, found, unknown)
        yield from tally.watch(chunked(inputs, rows, list(metadata)))
        if not tally.rows:
            raise UsageError(f"{shown(self.location)}: has no annotations")
        self.read_as = tally.line("the categories", "", f"boxes in pixels of {counted(len(boxes), 'picture')}")
        self.notes = [*find.notes(), *found.notes(), *tally.notes("the file")]
        if bare := sum(not each for each in boxes.values()):
            self.notes.append(f"{counted(bare, 'picture has', 'pictures have')} no annotation, and so no row")
        if unknown:
            self.notes.append(
                f"{counted(unknown.total(), 'annotation has', 'annotations have')} a category that the file does not "
                f"name (the first: {shown(next(iter(unknown)))}): no label"
            )
        self.unfound = find.unfound()

    def _rows(
        self,
        images: list[dict[str, Any]],
        boxes: dict[Any, list[dict[str, Any]]],
        names: dict[Any, str | None],
        metadata: list[str],
        find: Finder,
        found: Boxes,
        unknown: Counter[str],
    ) -> Iterator[Row]:
        for number, image in enumerate(images):
            written = image.get("file_name")
            if not isinstance(written, str) or not written:
                raise self._wrong(f"image {number} has no file_name")
            own = boxes[image.get("id")]
            if not own:
                continue
            key = without_dot(to_bytes(written))
            location, size, mtime = find(key)
            for each in own:
                category = each.get("category_id")
                if category not in names:
                    unknown[str(category)] += 1
                row = Row(key, size, mtime, -1, location, names.get(category), None)
                row = row._replace(metadata=tuple(_value(each.get(name)) for name in metadata))
                name = None if each.get("id") is None else to_bytes(str(each["id"]))
                yield found.row(row, self._box(each), name, location)

    def _box(self, annotation: dict[str, Any]) -> list[float]:
        box = annotation.get("bbox")
        try:
            if isinstance(box, list) and len(box) == 4:
                return [float("nan") if (number := number_of(value)) is None else number for value in box]
        except ValueError:
            pass
        raise self._wrong(f"the bbox of the annotation {shown(str(annotation.get('id')))} is no list of four numbers")

    def _load(self) -> dict[str, Any]:
        try:
            with open(self._path, "rb") as file:
                data = json.load(file, object_hook=_without_outlines)
        except OSError as error:
            raise FeatstoreError(f"{shown(self.location)}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"is no JSON ({shown(str(error))})") from None
        if not isinstance(data, dict):
            raise self._wrong("is no object with images and annotations")
        return data

    def _listed(self, data: dict[str, Any], name: str, default: Any = None) -> list[dict[str, Any]]:
        value = data.get(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(each, dict) for each in value):
            raise self._wrong(f"has no list of {name}")
        if any(isinstance(each.get(key), list | dict) for each in value for key in ("id", "image_id", "category_id")):
            raise self._wrong(f"has {name} whose id is no number or text")
        return list(value)

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"{shown(self.location)}: {what}; a file of COCO annotations is needed (images, annotations)")


def _without_outlines(value: dict[str, Any]) -> dict[str, Any]:
    # Drop the outlines of objects while parsing: they are most of the file, and featstore does not use them.
    value.pop("segmentation", None)
    return value


def _is_metadata(name: str, value: Any) -> bool:
    return name not in _OWN and (value is None or isinstance(value, str | int | float | bool))


def _value(value: Any) -> Scalar:
    return value if isinstance(value, str | int | float | bool) else None
