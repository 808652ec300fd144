"""Decode picture files to the pixels that a network sees.

All decoders are pure functions of the bytes and the ``Preprocessing``. They are safe in threads and processes, and
write no warning or message to any stream. The fast decoder needs torch, the reference decoder does not.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.decode.augment import Augment, Fitting
from featstore.decode.opening import as_failure
from featstore.decode.pillow import DECODER, decode, load_rgb
from featstore.decode.preprocessing import INTERPOLATIONS, DecodeFailure, Preprocessing
from featstore.errors import UsageError
from featstore.processes.sandbox import function_of

__all__ = [
    "DECODER",
    "DECODERS",
    "INTERPOLATIONS",
    "Augment",
    "DecodeFailure",
    "Decoder",
    "Fitting",
    "Preprocessing",
    "decode",
    "decoder_class",
    "load_rgb",
    "open_decoder",
    "open_fitting",
]

DECODERS: Final = {DECODER: "featstore.decode.pillow:decode", "pillow-torch": "featstore.decode.fast:decode"}
"""The function of each decoder, by the decoder's name, which is part of the identity of features.

``pillow`` is the reference; ``pillow-torch`` is faster, and its pixel values (0..255) differ from the reference by at
most 1 (bicubic: 2).
"""
_CLASSES: Final = {"exact": DECODER, "fast": "pillow-torch"}


class Decoder(Protocol):
    """A function from the bytes of a picture file to (crop, crop, 3) uint8; raises DecodeFailure."""

    def __call__(self, data: bytes, preprocessing: Preprocessing, *, max_pixels: int = ...) -> NDArray[np.uint8]: ...


def open_decoder(name: str, augment: Augment | None = None) -> Decoder:
    """Return the decoder called ``name``; raise UsageError if it is not one of DECODERS.

    ``augment``: the decoder gives this random version of each picture instead of the plain picture.
    """
    fitting = open_fitting(name, augment)
    if augment is None:
        return function_of(DECODERS[name])

    def decode_augmented(
        data: bytes, preprocessing: Preprocessing, *, max_pixels: int = defaults.MAX_PIXELS
    ) -> NDArray[np.uint8]:
        with as_failure():
            image = load_rgb(data, max_pixels=max_pixels)
            return fitting(image, preprocessing, hashlib.sha256(data).digest())

    return decode_augmented


def open_fitting(name: str, augment: Augment | None = None) -> Fitting:
    """Return the function of the decoder ``name`` that makes the network's input from an RGB image of ``load_rgb``.

    ``augment``: how the function augments the image; None for the plain picture.
    Raises UsageError if ``name`` is not one of DECODERS.
    """
    if name not in DECODERS:
        raise UsageError(f"there is no decoder {name!r}; there are {', '.join(DECODERS)}")
    return Fitting(function_of(DECODERS[name].replace(":decode", ":resize_and_crop")), augment)


def decoder_class(choice: str) -> str:
    """Return the decoder's name for ``choice``, "exact" or "fast"; raise UsageError for another value."""
    if choice not in _CLASSES:
        raise UsageError(f"decode: {choice!r} is not {' or '.join(_CLASSES)}")
    return _CLASSES[choice]
