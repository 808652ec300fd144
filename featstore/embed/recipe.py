"""How features are made: a backbone, the engine that runs it, and the identity.

The identity records all settings that determine the features; features of different identities are never mixed.

A Request holds the user's options. ``Request.agrees`` compares these options with the names (of backbone, weights and
so on) that a store records; ``Request.load`` loads the network. ``reopen`` loads the network that made existing
features. Importing this module does not load torch, which a run without pending pictures does not need.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from featstore import defaults
from featstore.embed.geometry import Geometry
from featstore.errors import IdentityError, UsageError
from featstore.store.identity import Identity
from featstore.store.manifest import Manifest

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.engines import Engine

EXACT_ENGINES: Final = ("torch", "torch-folded", "compile", "openvino")
"""Engines that compute in the precision class fp32 if no other precision is requested."""
_BY_NAME: Final = re.compile(r"random:[0-9]+|[A-Z][A-Z0-9_]*")
"""Names of weights that mean the same weights on every machine: random weights by seed, or published weights. Any other
name is the path of a file."""


@dataclass(frozen=True)
class Network:
    """A loaded backbone, the engine that runs it, and the identity of the features that they make."""

    backbone: Backbone
    engine: Engine
    identity: Identity


@dataclass(frozen=True)
class Request:
    """The options that the user asks for, named as in ``extract``; None and "auto" mean the setting of the existing
    store.
    """

    backbone: str | Backbone | None = None
    weights: str | None = None
    engine: str = defaults.ENGINE
    device: str = "auto"
    precision: str = "auto"
    decode: str = defaults.DECODE
    dtype: str | None = None
    size: int | None = None
    fit: str | None = None
    layer: str | None = None
    pool: str | None = None
    augment: str | None = None
    view: int | None = None
    augment_seed: int | None = None

    @property
    def augmentation(self) -> dict[str, Any] | None:
        """The field ``augment`` of an Identity that this request asks for; None to leave it to the store.

        Raises UsageError for invalid values.
        """
        if self.augment is None and self.view in (None, 0):
            if self.augment_seed is not None:
                raise UsageError("augment_seed: is only for augmented pictures; name augment too, or leave it out")
            return None if self.view is None else {}
        # Import here, not at the top: featstore.decode imports Pillow, which takes time.
        from featstore.decode import Augment

        if self.augment is None or self.view is None:
            raise UsageError("augment and view belong together: an augmentation makes one of several views; name both")
        return Augment(self.augment, self.view, self.augment_seed or 0).to_dict()

    @property
    def geometry(self) -> Geometry:
        """The options size, fit, layer and pool of this request."""
        return Geometry(self.size, self.fit, self.layer, self.pool)

    def agrees(self, existing: Manifest) -> bool:
        """Return whether the options of this request are certain to give the features of the store ``existing``.

        Only names are compared (of backbone, weights and so on). The result is False if a name differs, or if the
        network has to be loaded for the comparison, as for a checkpoint file.
        """
        identity = existing.identity
        identity.require_pictures("the store")
        return (
            self._names_backbone(existing)
            and not self.geometry.differences(identity)
            and self.augmentation in (None, identity.augment)
            and self.dtype in (None, identity.dtype)
            and (self.decode == "auto" or _decoder(self.decode) == identity.decoder)
            and self.precision in ("auto", identity.precision)
            and (self.engine == "auto" or (self.engine in EXACT_ENGINES and identity.precision == "fp32"))
            and (self.device in ("auto", "cpu") or self.device.startswith("cuda"))
        )

    def _names_backbone(self, existing: Manifest) -> bool:
        identity, asked = existing.identity, self.backbone
        if asked is None or isinstance(asked, str):
            same = self.weights == existing.weights_name and _BY_NAME.fullmatch(self.weights) is not None
            return (asked is None or asked.lower() == identity.backbone.lower()) and (self.weights is None or same)
        if self.geometry != Geometry():
            return False
        return all(getattr(identity, name) == value for name, value in of_backbone(asked).items())

    def load(self, existing: Manifest | None, store: Path) -> Network:
        """Load the requested backbone, and open the engine that runs it.

        ``existing``: the manifest (description) of ``store``; None if the store has no rows yet.

        Raises IdentityError if the store has features of another backbone or geometry. If the names of the backbones
        differ, this error is raised before the network is loaded. Raises UsageError for wrong options, DamagedError for
        damaged weights, and FeatstoreError if a download fails.
        """
        from featstore.decode import DECODER
        from featstore.engines import engine_for_class, open_engine

        known = None if existing is None else existing.identity
        if known is not None:
            known.require_pictures(str(store))
            self.geometry.require(known, str(store))
        augment = self.augmentation
        if known is not None and augment is None:
            augment = known.augment
        decoder = _decoder(self.decode) if self.decode != "auto" else DECODER if known is None else known.decoder
        asked = self.backbone
        geometry = self.geometry
        if asked is None or isinstance(asked, str):
            backbone = self._load_backbone(asked, existing, store)
            geometry = geometry if known is None else Geometry.of(known)
        else:
            backbone = asked
        backbone = geometry.apply(backbone)
        engine, precision = self.engine, self.precision
        if precision == "auto" and known is not None:
            engine, precision = engine_for_class(known.precision, engine)
        opened = open_engine(backbone, engine=engine, device=self.device, precision=precision)
        dtype = self.dtype or (defaults.DTYPE if known is None else known.dtype)
        return Network(backbone, opened, identity_of(backbone, opened, dtype, decoder, augment))

    def _load_backbone(self, name: str | None, existing: Manifest | None, store: Path) -> Backbone:
        if existing is not None:
            return load_again(existing.identity, existing.weights_name, name, self.weights, str(store))
        from featstore.backbones import load_backbone, names_model
        from featstore.backbones.layers import require_layer

        name = name or defaults.BACKBONE
        if self.layer is not None and not names_model(name):
            require_layer(name, self.layer)
        return load_backbone(name, self.weights)


def load_again(identity: Identity, weights_name: str, name: str | None, weights: str | None, what: str) -> Backbone:
    """Load the backbone with which ``what``, a store, head or index, was made.

    ``name``, ``weights``: backbone and weights that the user named, or None. Only names from the user open a file or
    import a module, never the names recorded in ``what``. Raises UsageError
    with the remedy if the backbone cannot be loaded, IdentityError if ``name`` is another backbone.
    """
    from featstore.backbones import (
        backbone_name,
        exists,
        known_weights,
        load_backbone,
        load_recorded,
        names_model,
        own_function,
    )
    from featstore.backbones.plugins import consent, is_name, is_spec

    its = identity.backbone
    holds_weights = name is not None and (own_function(name) is not None or names_model(name))
    loaded = load_backbone(name, weights) if name is not None and holds_weights else None
    if name is not None and (backbone_name(name) if loaded is None else loaded.name) != its:
        raise IdentityError(
            f"{what} has features of {its}, not {name}; leave --backbone out to go on with it, or name another store"
        )
    if loaded is not None:
        return loaded
    if is_spec(weights_name) and not exists(its):
        raise UsageError(f"{what}: was made with the backbone {its}; {consent(weights_name)}")
    try:
        backbone_name(its)
    except UsageError as error:
        own = "; a network of your own has to be named, by --backbone package.module:function" if is_name(its) else ""
        raise UsageError(f"{what}: was made with the backbone {its}: {error}{own}") from None
    if weights is None and not known_weights(its, weights_name):
        raise UsageError(
            f"{what}: was made with the weights {weights_name}; name their file with --weights, or their model folder"
        )
    return load_recorded(its, weights or weights_name)


def reopen(
    identity: Identity,
    weights_name: str,
    what: str,
    *,
    backbone: str | Backbone | None = None,
    weights: str | None = None,
    engine: str = defaults.ENGINE,
    device: str = "auto",
    otherwise: str = "",
) -> Network:
    """Load the network that made the features of ``identity``, with an engine of the same precision, and check it.

    ``weights_name``: name of the weights when the features were made. ``weights``: file of the weights, if
    ``weights_name`` does not lead to a file. ``backbone``: a loaded backbone or a name from the user; required if the
    features were made with the user's own function. ``what``: path of the features, for messages; ``otherwise``: a
    further remedy to add to error messages. Raises UsageError if backbone or weights are not available; IdentityError
    if the network gives other features.
    """
    from featstore.engines import engine_for_class, open_engine

    identity.require_pictures(what)
    if backbone is None or isinstance(backbone, str):
        try:
            backbone = load_again(identity, weights_name, backbone, weights, what)
        except IdentityError:
            raise
        except UsageError as error:
            raise UsageError(f"{error}{otherwise}") from None
    backbone = Geometry.of(identity).apply(backbone)
    engine, precision = engine_for_class(identity.precision, engine)
    opened = open_engine(backbone, engine=engine, device=device, precision=precision)
    identity.check(identity_of(backbone, opened, identity.dtype, identity.decoder, identity.augment), what)
    return Network(backbone, opened, identity)


def _decoder(choice: str) -> str:
    # Import here, not at the top: featstore.decode imports Pillow, which takes time.
    from featstore.decode import decoder_class

    return decoder_class(choice)


def identity_of(
    backbone: Backbone, engine: Engine, dtype: str, decoder: str, augment: dict[str, Any] | None = None
) -> Identity:
    """Return the identity of features from ``backbone``, ``engine`` and the decoder named ``decoder``.

    ``augment``: the field ``augment`` of the identity; None or empty for plain pictures.
    """
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype: {dtype!r} is not float32 or float16")
    own = of_backbone(backbone)
    return Identity(**own, decoder=decoder, precision=engine.precision, dtype=dtype, augment=augment or {})


def of_backbone(backbone: Backbone) -> dict[str, Any]:
    """Return the fields of an Identity that depend only on ``backbone``."""
    return {
        "backbone": backbone.name,
        "layer": backbone.layer,
        "dimension": backbone.dimension,
        "weights": backbone.weights_digest,
        "preprocessing": backbone.preprocessing.to_dict(),
        "pool": backbone.pool,
        "shape": backbone.shape,
    }
