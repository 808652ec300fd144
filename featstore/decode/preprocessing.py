"""Preprocessing of a picture for the network, as a value that is stored with the features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from featstore.defaults import FITS, LARGEST_SIDE
from featstore.errors import UsageError

INTERPOLATIONS: Final = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


class DecodeFailure(Exception):
    """A picture that cannot be decoded.

    ``reason`` is one of the stable words ``truncated``, ``not-a-picture``, ``too-many-pixels``,
    ``unsupported``, ``corrupt``, ``out-of-memory``; ``message`` explains it in one line.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = " ".join(message.split())

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class Preprocessing:
    """Make a picture ``crop`` x ``crop`` pixels, and normalise it.

    ``fit``: "crop", resize so that the shorter side has ``resize`` pixels, and cut out the centre (torchvision's Resize
    and CenterCrop); "squash", resize both sides, ignoring the aspect ratio; "pad", resize the longer side, and fill the
    rest of the square with ``fill``, half on each side. Only "crop" uses ``resize``; with other fits ``resize`` equals
    ``crop``. ``mean`` and ``std`` are per channel (R, G, B) in units of full brightness: x = (pixel / 255 - mean) /
    std. Raises UsageError for invalid values.
    """

    resize: int
    crop: int
    interpolation: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    fit: str = "crop"

    def __post_init__(self) -> None:
        for value in (self.resize, self.crop):
            if type(value) is not int or not 1 <= value <= LARGEST_SIDE:
                raise UsageError(f"preprocessing: {value!r} is no size in pixels (1 to {LARGEST_SIDE})")
        if self.crop > self.resize:
            raise UsageError(f"preprocessing: a crop of {self.crop} does not fit a resize to {self.resize}")
        if self.fit not in FITS:
            raise UsageError(f"preprocessing: no fit {self.fit!r}; there are {', '.join(FITS)}")
        if self.fit != "crop" and self.resize != self.crop:
            raise UsageError(f"preprocessing: the fit {self.fit} needs resize and crop to be equal")
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"preprocessing: no interpolation {self.interpolation!r}; there are {', '.join(INTERPOLATIONS)}"
            )
        if self.antialias is not True:
            raise UsageError("preprocessing: resizing is always antialiased; antialias has to be true")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not isinstance(values, tuple) or len(values) != 3:
                raise UsageError(f"preprocessing: {name} needs three numbers, one for each of R, G and B")
            if not all(isinstance(v, int | float) and math.isfinite(v) for v in values) or (
                name == "std" and min(values) <= 0
            ):
                raise UsageError(f"preprocessing: {name} {values} is not usable")

    @property
    def fill(self) -> tuple[int, int, int]:
        """Colour (R, G, B) around a padded picture: the mean of the normalisation, so that the network sees zeros."""
        r, g, b = (min(255, max(0, round(255 * value))) for value in self.mean)
        return r, g, b

    def with_geometry(self, size: int | None, fit: str | None) -> Preprocessing:
        """Return this preprocessing with a crop of ``size`` x ``size`` pixels and another ``fit``.

        None keeps the present value. With the fit "crop", the ratio of ``crop`` to ``resize`` is kept.
        """
        size, fit = self.crop if size is None else size, fit or self.fit
        resize = max(size, round(self.resize * size / self.crop)) if fit == "crop" else size
        return replace(self, resize=resize, crop=size, fit=fit)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types, without ``fit`` if it is "crop", because older versions had no ``fit``."""
        value = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        return {name: each for name, each in value.items() if (name, each) != ("fit", "crop")}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Preprocessing:
        """Return the Preprocessing with the fields ``value``, as from ``to_dict``.

        Raises UsageError for a field that is missing, unknown or malformed.
        """
        fields = set(cls.__dataclass_fields__)
        if set(value) | {"fit"} != fields:
            odd = ", ".join(sorted((set(value) | {"fit"}) ^ fields))
            raise UsageError(f"preprocessing: fields missing or unknown: {odd}")
        lists = {name: value[name] for name in ("mean", "std")}
        if not all(isinstance(v, list | tuple) for v in lists.values()):
            raise UsageError("preprocessing: mean and std have to be lists of three numbers")
        return cls(**{**value, **{name: tuple(v) for name, v in lists.items()}})
