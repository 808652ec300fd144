"""Sample data sets: "digits", which needs no network connection, and data sets that are downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from featstore.datasets import FetchProgress, fetch, registry
from featstore.errors import UsageError
from featstore.files import atomic
from featstore.sources.base import is_picture_name

OFFLINE = ("digits",)


def sample_names() -> tuple[str, ...]:
    """Return the names of the data sets that write_sample can write."""
    return (*OFFLINE, *registry())


def write_sample(name: str, folder: str | os.PathLike[str], *, progress: FetchProgress | None = None) -> int:
    """Write the sample ``name`` as picture files below ``folder`` and return the number of pictures.

    "digits" needs no connection: 1,797 handwritten digits (8 x 8, gray) of scikit-learn's load_digits, as
    <digit>/<number>.png. They are the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
    UCI Machine Learning Repository, 1998. All names in featstore.datasets.registry() are downloaded; ``progress`` is
    passed to featstore.datasets.fetch.

    Raises UsageError for an unknown name, or if ``folder`` has other files; also the errors of
    featstore.datasets.fetch.
    """
    if name in OFFLINE:
        return _write_digits(folder)
    if name not in registry():
        raise UsageError(f"no sample {name!r}; there is {', '.join(sample_names())}")
    fetch(registry()[name], folder, progress=progress)
    return sum(is_picture_name(os.fsencode(file)) for _, _, names in os.walk(folder) for file in names)


def _write_digits(folder: str | os.PathLike[str]) -> int:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    root = Path(folder)
    wanted = {root / str(label) / f"{number:04d}.png" for number, label in enumerate(digits.target)}
    if root.exists() and not {path for path in root.rglob("*") if path.is_file()} <= wanted:
        raise UsageError(f"{folder}: holds other files; name a new folder for the sample")
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = root / str(label) / f"{number:04d}.png"
        if not path.exists():
            atomic.make_directory(path.parent)
            with atomic.new_file(path, durable=False) as temporary:
                # Scale the 17 gray levels, 0 to 16, to 0 to 255.
                Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(temporary, format="png")
    return len(digits.target)
