"""Try one picture in a separate process with limits, started by the supervisor; imports no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from featstore.decode import DecodeFailure, Preprocessing
from featstore.processes.sandbox import function_of
from featstore.sources.base import ReadFailure
from featstore.sources.reading import read_picture
from featstore.store.cutting import CutPicture
from featstore.store.rows import Region

OUT_OF_MEMORY = "out-of-memory"


def try_picture(
    root: str,
    location: str,
    offset: int,
    size: int,
    *,
    preprocessing: dict[str, Any],
    max_pixels: int,
    max_bytes: int,
    decoder: str,
    region: list[int] | None = None,
) -> str:
    """Read and decode a picture; return the reason of its failure, or "" on success. ``decoder`` "": only read it.

    ``region``: the values of a Region; empty for the whole picture; None if the source has no regions.
    """
    decode = function_of(decoder) if decoder else None
    try:
        if region is not None:
            cut = CutPicture(
                Path(root), os.fsencode(location), offset, size, max_pixels=max_pixels, max_bytes=max_bytes
            )
            cut.read()
            if decoder:
                image = cut.region(Region(*region) if region else None)
                function_of(decoder.replace(":decode", ":resize_and_crop"))(
                    image, Preprocessing.from_dict(preprocessing)
                )
            return ""
        picture = read_picture(Path(root), os.fsencode(location), offset, size, limit=max_bytes)
        if decode is not None:
            decode(picture.data, Preprocessing.from_dict(preprocessing), max_pixels=max_pixels)
    except (ReadFailure, DecodeFailure) as failure:
        return str(failure.reason)
    except MemoryError:
        return OUT_OF_MEMORY
    return ""
