"""Options for the part of a picture that the network sees, and for the layer whose output becomes the vector."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypedDict

from featstore.defaults import FITS, LARGEST_SIDE, OUTPUT_OF, POOLS
from featstore.errors import IdentityError, UsageError
from featstore.store.identity import Identity

if TYPE_CHECKING:
    from featstore.backbones import Backbone


class GeometryKeywords(TypedDict, total=False):
    """The fields of Geometry as keywords, each of which may be left out."""

    size: int | None
    fit: str | None
    layer: str | None
    pool: str | None


@dataclass(frozen=True)
class Geometry:
    """Options for a backbone's input and output; None means the setting of the authors of the weights.

    Raises UsageError for invalid values.

    Attributes
    ----------
    size : int or None
        Side in pixels of the square that the network sees.
    fit : {"crop", "squash", "pad"} or None
        How a picture becomes a square, see Preprocessing.
    layer : str or None
        Module of the network whose output is used, such as "layer3" (see ``featstore backbones NAME``).
    pool : {"avg", "max", "cls", "cls+mean", "none"} or None
        How the output of ``layer`` becomes a vector, see featstore.backbones.layers.take.
    """

    size: int | None = None
    fit: str | None = None
    layer: str | None = None
    pool: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not (type(self.size) is int and 1 <= self.size <= LARGEST_SIDE):
            raise UsageError(f"size: {self.size!r} is no side of a picture in pixels (1 to {LARGEST_SIDE:,})")
        for name, value, known in (("fit", self.fit, FITS), ("pool", self.pool, POOLS)):
            if value is not None and value not in known:
                raise UsageError(f"{name}: {value!r} is not one of {', '.join(known)}")

    @classmethod
    def of(cls, identity: Identity) -> Geometry:
        """Return the geometry (size, fit, layer, pool) with which the features of ``identity`` were made."""
        steps = identity.preprocessing
        layer = identity.layer.removeprefix(OUTPUT_OF) if identity.layer.startswith(OUTPUT_OF) else None
        return cls(steps.get("crop"), steps.get("fit", "crop"), layer, identity.pool or None)

    def differences(self, identity: Identity) -> list[str]:
        """Return a text for each of the options size, fit, layer and pool that differs from the record ``identity``."""
        there = Geometry.of(identity)
        shown = {"layer": identity.layer, "pool": identity.pool or "that of the network"}
        asked = {each.name: getattr(self, each.name) for each in fields(self)}
        return [
            f"{name} {shown.get(name, getattr(there, name))}, not {value}"
            for name, value in asked.items()
            if value not in (None, getattr(there, name))
        ]

    def require(self, identity: Identity, what: str) -> None:
        """Raise IdentityError if an option differs from ``identity``; ``what``: path of its features, for the
        message."""
        if found := self.differences(identity):
            raise IdentityError(
                f"{what} has features of another geometry: {'; '.join(found)}; features of different identities never "
                "mix: ask for what it was made with, or make a new one"
            )

    def apply(self, backbone: Backbone) -> Backbone:
        """Return ``backbone`` with this geometry. Raises UsageError if the backbone does not support the layer or
        size."""
        from featstore.backbones.layers import resized, take

        if self.pool is not None and self.layer is None:
            raise UsageError(f"pool: {self.pool} needs the layer whose output is pooled; name it too")
        if self.size is not None or self.fit is not None:
            backbone = resized(backbone, self.size, self.fit)
        return backbone if self.layer is None else take(backbone, self.layer, self.pool)
