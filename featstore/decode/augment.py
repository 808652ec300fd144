"""Augment pictures for training: random crops, flips and colours that every machine repeats exactly.

All random numbers come from NumPy's Philox generator, whose key is a SHA-256 of the picture's bytes, its box, the view
and the seed. So an augmented picture depends neither on the machine, the thread or the order of the work, nor on the
global generators of torch and NumPy, which are not used.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featstore.decode import pillow
from featstore.decode.geometry import content_box
from featstore.decode.preprocessing import Preprocessing
from featstore.defaults import LARGEST_SEED, LARGEST_VIEW, POLICIES
from featstore.errors import UsageError

Resizing = Callable[[Image.Image, Preprocessing], NDArray[np.uint8]]
"""Function that resizes, and crops or pads, an RGB image to (crop, crop, 3) uint8."""
VERSION: Final = 1
"""Version of the random draws and of the policies; a change that alters pixels needs a new number."""
_TRIES: Final = 10
"""Number of random regions to try before the central region is taken, as in torchvision's RandomResizedCrop."""


@dataclass(frozen=True)
class _Policy:
    """Ranges of the random values of an augmentation policy.

    ``scale``: area of the random region, as a share of the reference area. The reference is the largest central square
    if ``of_square`` and the fit is "crop", otherwise the whole picture. ``ratio``: aspect ratio of the region.
    ``jitter``: largest relative change of brightness, contrast and saturation. ``flip``: probability of a mirror image.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    jitter: float
    of_square: bool
    flip: float = 0.5


_RANGES: Final = {
    "light": _Policy((0.8, 1.0), (0.9, 1 / 0.9), 0.0, of_square=True),
    "standard": _Policy((0.08, 1.0), (3 / 4, 4 / 3), 0.4, of_square=False),
}
"""The policies by name.

"standard" is the random resized crop and horizontal flip of torchvision's reference training
(https://github.com/pytorch/vision/blob/main/references/classification/presets.py, ClassificationPresetTrain), which are
those of C. Szegedy et al., Going deeper with convolutions, CVPR 2015, and the colour jitter of 0.4 of
https://github.com/facebookarchive/fb.resnet.torch.
"light" shows at least 80 % of the area that the plain picture shows, and keeps the colours.
"""


@dataclass(frozen=True)
class Augment:
    """How an augmented view of pictures is made. Raises UsageError for invalid values.

    ``policy``: "light" or "standard". ``view``: number of the view, from 1; view 0 is the plain picture. ``seed``: a
    whole number; another seed gives other views. ``version``: VERSION.
    """

    policy: str
    view: int
    seed: int = 0
    version: int = field(default=VERSION)

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UsageError(f"augment: {self.policy!r} is not one of {', '.join(POLICIES)}")
        if type(self.view) is not int or not 1 <= self.view <= LARGEST_VIEW:
            raise UsageError(f"view: {self.view!r} is no number of an augmented view (1 to {LARGEST_VIEW:,})")
        if type(self.seed) is not int or not 0 <= self.seed <= LARGEST_SEED:
            raise UsageError(f"augment_seed: {self.seed!r} is no seed (0 to {LARGEST_SEED})")
        if self.version != VERSION:
            raise UsageError(f"augment: version {self.version!r} is not known, only version {VERSION}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, for the field ``augment`` of an Identity."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Augment | None:
        """Return the Augment whose fields are ``value``; None if ``value`` is empty, which means plain pictures."""
        return cls(**value) if value else None


@dataclass(frozen=True)
class Fitting:
    """Function of (image, preprocessing, digest, box) that returns the pixels that the network sees.

    ``resize_and_crop``: the decoder's function that makes the plain picture. ``augment``: the augmentation; None for
    plain pictures. Two Fittings with equal fields make equal pixels.
    """

    resize_and_crop: Resizing
    augment: Augment | None = None

    def __call__(
        self,
        image: Image.Image,
        preprocessing: Preprocessing,
        digest: bytes = b"",
        box: Sequence[int] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the RGB ``image`` as (crop, crop, 3) uint8.

        ``digest``: SHA-256 of the bytes of the picture's file; ``box``: (x, y, width, height) if ``image`` is a region
        of that picture. Plain pictures do not depend on ``digest`` and ``box``.
        """
        its = self.augment
        if its is None:
            return self.resize_and_crop(image, preprocessing)
        random = generator(digest, box, its.view, its.seed)
        return augment(image, preprocessing, its.policy, random, resize_and_crop=self.resize_and_crop)


def generator(digest: bytes, box: Sequence[int] | None, view: int, seed: int) -> np.random.Generator:
    """Return the random generator for one augmented picture; equal arguments give equal numbers on every machine.

    ``digest``: SHA-256 of the bytes of the picture's file. ``box``: (x, y, width, height) in pixels if a region of the
    picture is augmented, None for the whole picture. ``view`` and ``seed`` as in Augment.
    """
    place = struct.pack("<4q", *map(int, box[:4])) if box is not None else b""
    name = b"featstore-augment" + struct.pack("<IQQ", VERSION, seed, view) + digest + place
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(name).digest()[:16], "little")))


def augment(
    image: Image.Image,
    preprocessing: Preprocessing,
    policy: str,
    random: np.random.Generator,
    *,
    resize_and_crop: Resizing = pillow.resize_and_crop,
) -> NDArray[np.uint8]:
    """Return a random version of the RGB ``image`` as (crop, crop, 3) uint8, C-contiguous.

    A random region of the image is resized as ``preprocessing.fit`` asks: "crop" and "squash" to the square, "pad" to
    its longer side, with margins that keep their colour. ``policy``: "light" or "standard". ``random``: see
    ``generator``; the number of values drawn does not depend on the image. ``resize_and_crop``: the decoder's function
    for resizing, by default that of the reference decoder.

    For the fits "squash" and "pad" the region has the proportions of the image, changed only by the random aspect ratio
    of the policy. With these fits the network always sees the whole picture.
    """
    from torchvision.transforms.v2 import functional

    its = _RANGES[policy]
    # Draw only with Generator.random, in one fixed order: other methods may change between versions of NumPy.
    tries, flip, order, factors = random.random((_TRIES, 4)), random.random(), random.random(3), random.random(3)
    left, top, width, height = _region(*image.size, preprocessing, its, tries)
    steps = preprocessing if preprocessing.fit == "pad" else preprocessing.with_geometry(None, "squash")
    pixels = resize_and_crop(image.crop((left, top, left + width, top + height)), steps)
    inside = content_box((width, height), steps)
    picture = Image.fromarray(pixels[inside])
    if flip < its.flip:
        picture = functional.horizontal_flip(picture)
    if its.jitter:
        changes = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
        for number in np.argsort(order, kind="stable").tolist():
            picture = changes[number](picture, 1 + its.jitter * (2 * float(factors[number]) - 1))
    changed = np.array(pixels)
    changed[inside] = np.asarray(picture)
    return changed


def _region(
    width: int, height: int, preprocessing: Preprocessing, its: _Policy, tries: NDArray[np.float64]
) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of a random region, by the algorithm of torchvision's RandomResizedCrop.

    ``tries``: (n, 4) random numbers in [0, 1): area, aspect ratio, left and top of each region that is tried. The first
    region that fits into the picture is returned, otherwise the largest central region with an allowed aspect ratio.
    """
    cropped = preprocessing.fit == "crop"
    area = min(width, height) ** 2 if cropped and its.of_square else width * height
    aspect = 1.0 if cropped else width / height
    low, high = its.ratio
    for size, shape, x, y in tries.tolist():
        share = area * (its.scale[0] + size * (its.scale[1] - its.scale[0]))
        ratio = aspect * math.exp(math.log(low) + shape * (math.log(high) - math.log(low)))
        w, h = round(math.sqrt(share * ratio)), round(math.sqrt(share / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(x * (width - w + 1)), int(y * (height - h + 1)), w, h
    w = max(1, min(width, round(height * aspect * high)))
    h = max(1, min(height, round(width / (aspect * low))))
    return (width - w) // 2, (height - h) // 2, w, h
