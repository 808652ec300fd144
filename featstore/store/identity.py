"""The identity of a store and its fingerprint: feature vectors of equal identity are comparable."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Final

import numpy as np

from featstore.defaults import LARGEST_SEED, LARGEST_VIEW, OUTPUT_OF, POLICIES
from featstore.errors import DamagedError, IdentityError, UsageError
from featstore.files import atomic
from featstore.text import printable

OPTIONAL: Final = frozenset({"pool", "shape", "augment"})
"""Fields that are omitted from an identity's JSON if they are empty."""
_SHOWN: Final = 40
"""Longest JSON value in a message, in characters."""


@dataclass(frozen=True)
class Identity:
    """Everything that determines a feature's value. Provenance (versions, engine, device) is not part of it.

    Attributes
    ----------
    backbone, layer : str
        Name of the model, and the layer whose input or output is used, such as "resnet50", "input of fc".
    dimension : int
        Length of a vector.
    weights : str
        SHA-256 of the weights' values, independent of the file format.
    preprocessing : dict
        Resize, crop, interpolation, antialias, mean, std, and fit unless it is "crop" (JSON).
    decoder : str
        Name of a group of picture decoders that give bit-identical pixels.
    precision : str
        Precision class of the arithmetic: features of one class agree within a bound (see featstore/engines/README.md).
        "fp32" for all exact engines, "bf16", "fp16", "int8-s16" ("int8" in older stores).
    dtype : str
        Type of the stored numbers, "float32" or "float16".
    pool : str
        How the layer's output became a vector: "avg", "max", "cls", "cls+mean" or "none"; "" if the output is a vector.
    shape : tuple of int
        With the pool "none": shape of the layer's output, (channels, height, width) or (tokens, channels); a vector is
        the output in C order. Otherwise ().
    augment : dict
        For features of augmented pictures: policy, view, seed and version of featstore.decode.augment.Augment (JSON).
        Empty for features of plain pictures.
    """

    backbone: str
    layer: str
    dimension: int
    weights: str
    preprocessing: dict[str, Any]
    decoder: str
    precision: str
    dtype: str
    pool: str = ""
    shape: tuple[int, ...] = ()
    augment: dict[str, Any] = field(default_factory=dict)

    UNKNOWN: ClassVar[str] = "unknown"
    """Value of the fields that are unknown in the identity of imported features."""

    @classmethod
    def imported(cls, name: str, dimension: int, dtype: str) -> Identity:
        """Return the identity of features made by another program; ``name`` is the user's name for the model."""
        return cls(name, "imported", dimension, cls.UNKNOWN, {}, cls.UNKNOWN, cls.UNKNOWN, dtype)

    @property
    def is_imported(self) -> bool:
        """Whether the features were made by another program, so that featstore cannot compute more of them."""
        return self.layer == "imported" and not self.preprocessing

    def require_plain(self, what: str) -> None:
        """Raise UsageError that names ``what`` if the features come from augmented pictures, because queries are plain
        pictures.
        """
        if self.augment:
            raise UsageError(
                f"{what}: has features of augmented pictures ({self.augment['policy']}, view {self.augment['view']}), and "
                "other pictures are not augmented; use the store of the plain pictures, or what was made from it"
            )

    def require_pictures(self, what: str) -> None:
        """Raise UsageError that names ``what`` if the features were imported: featstore cannot make such features."""
        if self.is_imported:
            raise UsageError(
                f"{what}: its features were imported as {printable(self.backbone)!r}, and featstore cannot make such features of "
                "pictures; use keys or vectors as queries, stores for predictions, and featstore import for more rows"
            )

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float16"):
            raise DamagedError(f"the features' type is {self.dtype!r}, where float32 or float16 is known")
        if not isinstance(self.dimension, int) or not 0 < self.dimension <= 1 << 20:
            raise DamagedError(f"the features' dimension is {self.dimension!r}, where 1 to {1 << 20:,} is known")
        if (self.pool == "none") != bool(self.shape) or (self.shape and math.prod(self.shape) != self.dimension):
            raise DamagedError(f"the features' shape {self.shape!r} does not fit their pool and dimension")
        if self.augment and not _is_augment(self.augment):
            raise DamagedError("the features' augmentation is not one that this version of featstore knows")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the identity's canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(atomic.canonical_json(self.to_dict()).encode()).hexdigest()

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """NumPy dtype of the stored numbers, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as JSON; without the fields of OPTIONAL that are empty, as in older versions."""
        value = {**asdict(self), "shape": list(self.shape)}
        return {name: each for name, each in value.items() if each or name not in OPTIONAL}

    @property
    def requires(self) -> tuple[str, ...]:
        """Entries that this identity adds to the manifest's ``requires`` (see "Migration policy" in README.md)."""
        fits = ["fit"] * ("fit" in self.preprocessing)
        return (
            *(["augment"] * bool(self.augment)),
            *fits,
            *(["layer"] * (bool(self.pool) or self.layer.startswith(OUTPUT_OF))),
        )

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Identity:
        """Rebuild an identity from ``to_dict``'s result; raise DamagedError for missing, unknown or wrongly typed
        fields."""
        kinds = {"dimension": int, "preprocessing": dict, "shape": list, "augment": dict}
        names = {field.name for field in fields(cls)}
        if (
            set(value) | OPTIONAL != names
            or any(not isinstance(value[name], kinds.get(name, str)) for name in value)
            or not all(value[name] for name in OPTIONAL & set(value))
        ):
            raise DamagedError("the identity in this file is not one that this version of featstore knows")
        shape = tuple(value.get("shape", ()))
        if not all(type(number) is int and number > 0 for number in shape):
            raise DamagedError(f"the features' shape is {list(shape)!r}, where positive whole numbers are known")
        return cls(**{**value, "shape": shape})

    def check(self, other: Identity, what: str) -> None:
        """Raise IdentityError that lists each difference if ``other`` differs from this identity.

        ``what`` names the owner of this identity in the message.
        """
        found = differences(self.to_dict(), other.to_dict())
        if found:
            raise IdentityError(
                f"{what} has features of another identity: {'; '.join(found)}; features of different identities "
                "never mix: ask for what it was made with, or make a new one"
            )


def _is_augment(value: Mapping[str, Any]) -> bool:
    """Return whether ``value`` is the JSON of a featstore.decode.augment.Augment that this version can repeat."""
    limits = {"version": (1, 1), "view": (1, LARGEST_VIEW), "seed": (0, LARGEST_SEED)}
    return (
        set(value) == {"policy", *limits}
        and isinstance(value["policy"], str)
        and value["policy"] in POLICIES
        and all(type(value[name]) is int and low <= value[name] <= high for name, (low, high) in limits.items())
    )


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the differences of two identities (JSON) as texts, such as "dtype float32, not float16".

    If the networks differ, return only this difference, because all others follow from it.
    """
    found = []
    for name in dict.fromkeys(["backbone", *ours, *theirs]):
        mine, other = ours.get(name), theirs.get(name)
        if isinstance(mine, dict) and isinstance(other, dict):
            found += differences(mine, other, f"{prefix}{name}.")
        elif mine != other:
            found.append(f"{prefix}{name} {_shown(mine)}, not {_shown(other)}")
            if name == "backbone":
                break
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "the default"
    if isinstance(value, str):
        return printable(value[:12] if len(value) == 64 else value)
    text = printable(atomic.canonical_json(value))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
