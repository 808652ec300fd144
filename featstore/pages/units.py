"""The page of units of a network: the pictures that activate each unit most and least."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featstore.decode.geometry import picture_box
from featstore.decode.preprocessing import Preprocessing
from featstore.errors import UsageError
from featstore.pages import parts
from featstore.pages.render import write_page
from featstore.store.pictures import Pictures
from featstore.store.thumbnails import Thumbnail, thumbnail
from featstore.text import counted, percentage

if TYPE_CHECKING:
    from PIL import Image

    from featstore.stages.units import Activation, UnitActivations, UnitsReport

MARK = (255, 40, 40)
"""Colour (R, G, B) of the outline around the part of a picture at the maximum."""
_LINE = 112
"""Longer side of a picture divided by the width of the outline: two pixels in a thumbnail of 224 pixels."""


def write_units_page(
    report: UnitsReport, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> list[str]:
    """Write the page of ``report``: each unit with the pictures that activate it.

    With activation maps, the page shows the part of each picture that the cell with the maximum lies over. ``root``:
    the present folder of the pictures, if they were moved. Returns the warnings of Pictures.notes() on pictures that
    were not found. Raises OSError if writing fails.
    """
    pictures = Pictures(report.store, root)
    preprocessing = _preprocessing(report)
    maps = bool(report.store.identity.shape)
    units = [_unit(one, report.grid, maps, preprocessing, pictures) for one in report.units]
    identity = report.store.identity
    among = f"the {counted(len(report.store), 'picture')}"
    if report.where is not None:
        among = f"those {report.kept:,} of the {counted(len(report.store), 'picture')} where {report.where}"
    write_page(
        path,
        "units.html",
        {
            **parts.footer([report.store], [] if report.head is None else [report.head]),
            "title": f"Units of {os.path.basename(os.path.abspath(report.store.path))}",
            "heading": "Units" if report.class_name is None else f"Units for {report.class_name}",
            "lead": f"{counted(len(report.units), 'unit')} of the {report.count:,} of {identity.backbone} ({identity.layer}); "
            f"pictures among {among} of {report.store.path}.",
            "head": report.head,
            "class_name": report.class_name,
            "crops": _about_crops(report, preprocessing),
            "maps": maps,
            "notes": [*report.notes, *pictures.notes()],
            "units": units,
        },
    )
    return pictures.notes()


def _preprocessing(report: UnitsReport) -> Preprocessing | None:
    """Return the preprocessing of the pictures; None if the place of a cell in a picture cannot be computed."""
    identity = report.store.identity
    if report.grid is None or identity.augment:
        return None
    try:
        return Preprocessing.from_dict(identity.preprocessing)
    except UsageError:
        return None


def _about_crops(report: UnitsReport, preprocessing: Preprocessing | None) -> str:
    if report.grid is None:
        return ""
    height, width = report.grid
    if preprocessing is None:
        return "The whole pictures are shown: where a cell of the map lies in them is not known."
    steps = " x ".join(f"{preprocessing.crop / side:g}" for side in dict.fromkeys((height, width)))
    return (
        f"Above each picture, and outlined in it, its part at the maximum of the {height} x {width} map: the cell's share of "
        f"the input of {preprocessing.crop} pixels (stride {steps}). The receptive field is larger; the store does not record it."
    )


def _unit(
    one: UnitActivations,
    grid: tuple[int, int] | None,
    maps: bool,
    preprocessing: Preprocessing | None,
    pictures: Pictures,
) -> dict[str, Any]:
    """Return the values of one unit for the HTML template.

    ``maps``: the unit is a channel of maps or tokens, whose contribution comes from all cells and not from the maximum.
    """
    ends = [
        {"title": title, "pictures": [_shown(found, grid, preprocessing, pictures) for found in found_pictures]}
        for title, found_pictures in (("Most", one.most), ("Least", one.least))
        if found_pictures
    ]
    about = f"{one.lowest:.4g} to {one.highest:.4g}, mean {one.mean:.4g}"
    if one.contribution is not None and one.class_mean is not None:
        how = "by being active" if one.class_mean > one.mean else "by being inactive"
        adds = f", {how}" if one.contribution > 0 and not maps else ""
        about += f", of the class {one.class_mean:.4g}; contribution {one.contribution:+.4g}{adds}"
    return {"unit": one.unit, "about": about, "ends": ends}


def _shown(
    found: Activation, grid: tuple[int, int] | None, preprocessing: Preprocessing | None, pictures: Pictures
) -> dict[str, Any]:
    """Return the values of one picture for the HTML template; ``crop`` is None if the page shows no part of it."""
    address = pictures.address(found.key)
    crop: Thumbnail | None = None

    def picture() -> Image.Image:
        nonlocal crop
        image = pictures(found.key)
        if grid is not None and preprocessing is not None and found.cell is not None:
            crop = _crop(image, found.cell, grid, preprocessing)
        return image

    thumb = thumbnail(picture, address)
    return {
        "key": found.key,
        "label": found.label,
        "figures": f"{found.value:.4g}, percentile {percentage(found.percentile)}",
        "thumb": thumb,
        "crop": None if crop is None else replace(crop, address=address),
    }


def _crop(image: Image.Image, cell: tuple[int, int], grid: tuple[int, int], preprocessing: Preprocessing) -> Thumbnail:
    """Return the part of ``image`` that a cell of the map lies over, and draw the outline of this part into ``image``.

    If the cell lies in the margins around the picture, the result has no picture and a note instead.
    """
    from PIL import ImageDraw

    (row, column), (height, width) = cell, grid
    part = column / width, row / height, (column + 1) / width, (row + 1) / height
    box = picture_box(image.size, preprocessing, part)
    if box is None:
        return Thumbnail(None, note="in the margin")
    inner = image.crop(box)
    line = max(1, max(image.size) // _LINE)
    left, top, right, bottom = box
    outline = left - line, top - line, right + line - 1, bottom + line - 1
    ImageDraw.Draw(image).rectangle(outline, outline=MARK, width=line)
    return thumbnail(lambda: inner)
