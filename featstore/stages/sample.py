"""Small real data sets that come with the libraries featstore needs: something to run on without a network."""

from __future__ import annotations

import os
from pathlib import Path

from featstore.errors import UsageError
from featstore.files import atomic

SAMPLES = ("digits",)


def write_sample(name: str, folder: str | os.PathLike[str]) -> int:
    """Write the sample ``name`` as picture files below ``folder`` and return their number.

    "digits": the 1,797 handwritten digits (8 x 8, gray) of scikit-learn's load_digits, that is the test set of
    E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998;
    as <digit>/<number>.png. Raises UsageError for an unknown name, or where ``folder`` has other files in it.
    """
    if name not in SAMPLES:
        raise UsageError(f"no sample {name!r}; there is {', '.join(SAMPLES)}")
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
                # 17 levels, 0 to 16, onto 0 to 255.
                Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(temporary, format="png")
    return len(digits.target)
