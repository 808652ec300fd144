"""The pictures of a benchmark: a random sample of the user's pictures, copied once and used by all contenders."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from featstore import defaults
from featstore.decode import DecodeFailure, Preprocessing, decode
from featstore.embed.embedder import Input, inputs_of
from featstore.errors import UsageError
from featstore.sources.base import ReadFailure
from featstore.sources.reading import read_picture

_EMBEDDED: Final = ("china.jpg", "flower.jpg")


def gather(source: str | os.PathLike[str] | None, count: int, folder: Path) -> tuple[int, int]:
    """Write ``count`` pictures of ``source`` into ``folder``; return the numbers of distinct and unreadable pictures.

    The pictures are drawn with a fixed seed; if ``source`` has fewer than ``count``, they are repeated. Without a
    source the two sample photographs of scikit-learn are used. Raises UsageError if no picture can be read.
    """
    # All files are named .jpg: decoders find the format from the bytes, not from the file extension.
    places = [folder / f"{number:06d}.jpg" for number in range(count)]
    distinct = unreadable = 0
    for data in _embedded() if source is None else _drawn(source, count):
        if data is None:
            unreadable += 1
        elif distinct < count:
            places[distinct].write_bytes(data)
            distinct += 1
    if not distinct:
        raise UsageError(f"{source}: none of its pictures can be read")
    for number in range(distinct, count):
        shutil.copyfile(places[number % distinct], places[number])
    return distinct, unreadable


def _embedded() -> Iterator[bytes]:
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise UsageError("scikit-learn, whose photographs are the default, is not installed; name pictures of your own")
    for name in _EMBEDDED:
        # Read the files directly: importing scikit-learn's loader takes a second, and only the bytes are needed.
        yield Path(spec.origin).parent.joinpath("datasets", "images", name).read_bytes()


def _drawn(source: str | os.PathLike[str], count: int) -> Iterator[bytes | None]:
    """Yield the bytes of ``count`` random pictures of ``source``; None for each picture that is unreadable."""
    for one in _sample(inputs_of([source]), count):
        try:
            data = read_picture(one.root, one.location, one.offset, one.size, limit=defaults.MAX_FILE_BYTES).data
            decode(data, Preprocessing(256, 224))
            yield data
        except (ReadFailure, DecodeFailure):
            yield None


def _sample(items: Iterable[Input], count: int) -> list[Input]:
    """Return ``count`` items drawn at random, in one pass.

    Source: J. Vitter 1985, "Random sampling with a reservoir", algorithm R.
    """
    draw, kept = random.Random(0), list[Input]()
    for number, item in enumerate(items):
        if number < count:
            kept.append(item)
        elif (place := draw.randrange(number + 1)) < count:
            kept[place] = item
    return kept
