"""The user's own backbones: a function that returns a network, named on the command line or by an entry point.

The function is imported only if the user named it in this process. A function name in a store, head or index is never
imported. See README.md in this folder.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Final

import torch
from torch import nn

from featstore.backbones import base
from featstore.decode import Preprocessing
from featstore.errors import FeatstoreError, UsageError
from featstore.text import counted, printable

GROUP: Final = "featstore.backbones"
"""Group under which packages register backbones as entry points."""
_SPEC: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.+-]{0,99}")
_FEATSTORE: Final = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_PROBES: Final = 2
"""Number of random pictures with which a user's network is tested when it is loaded."""


@dataclass(frozen=True)
class OwnBackbone:
    """The return type of a function for ``--backbone package.module:function``.

    ``module``: (n, 3, crop, crop) normalised float32 -> (n, d), with its weights loaded. ``preprocessing``:
    preprocessing of the pictures. ``name``: may contain lower-case letters, digits and ``_.+-``; name and digest of the
    weights identify the features. ``layer``: description of the network's output. ``text``: a network from a list of n
    texts -> (n, d), for text search; ``scale``: factor of the cosine before a softmax over texts.
    """

    module: nn.Module
    preprocessing: Preprocessing
    name: str
    layer: str = "output"
    text: nn.Module | None = None
    scale: float = 100.0


def is_spec(text: str) -> bool:
    """Return whether ``text`` has the form "package.module:function"."""
    return _SPEC.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Return whether ``text`` is a valid name for the user's own backbone."""
    return _NAME.fullmatch(text) is not None


def installed() -> dict[str, str]:
    """Return the functions that installed packages register: name to "package.module:function". Nothing is imported."""
    found = {point.name: point.value.replace(" ", "") for point in entry_points(group=GROUP)}
    return {name: value for name, value in sorted(found.items()) if is_name(name) and is_spec(value)}


def consent(spec: str) -> str:
    """Return the part of an error message that asks the user to name the function ``spec`` before it is imported."""
    return (
        f"it comes from the function {printable(spec)}, which is imported only where you name it: if you know this code, add "
        f"--backbone {printable(spec)}"
    )


def load(spec: str) -> base.Backbone:
    """Import and call the function ``spec``, which the user named, and return its network as a Backbone.

    The attribute ``weights`` of the Backbone is ``spec``. Raises UsageError if the function cannot be imported, fails,
    or returns something else; or if the network fails on test pictures, gives different features for the same picture,
    or changes its weights.
    """
    made = _call(_import(spec), spec)
    own = _checked(made, spec)
    module = own.module.to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)
    odd = base.non_finite(module)
    if odd is not None:
        raise UsageError(f"{spec}: the weights of its network hold NaN or infinity in {odd}; use other weights")
    whole, text = module, None
    if own.text is not None:
        text = base.TextTower(own.text.to(device="cpu", dtype=torch.float32).eval().requires_grad_(False), own.scale)
        whole = nn.ModuleDict({"module": module, "text": text.module})
    digest = base.digest(whole)
    dimension = _try(module, own.preprocessing.crop, spec)
    if base.digest(whole) != digest:
        raise UsageError(f"{spec}: its network changes its weights or buffers in a forward pass; make it keep them")
    return base.Backbone(own.name, own.layer, dimension, spec, digest, own.preprocessing, module, text=text)


def _import(spec: str) -> Callable[[], Any]:
    module, _, attribute = spec.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise UsageError(
                f"{spec}: there is no module {error.name}; install its package, or put its folder into PYTHONPATH "
                "(the working directory is not searched)"
            ) from None
        raise UsageError(f"{spec}: {_told(error, spec)}; install what it needs") from None
    except AttributeError as error:
        if attribute.split(".")[0] in str(error):
            raise UsageError(f"{spec}: the module has no {attribute}; name a function of it") from None
        raise UsageError(f"{spec}: cannot be imported: {_told(error, spec)}; correct it") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"{spec}: cannot be imported: {_told(error, spec)}; correct it") from None
    if not callable(found):
        raise UsageError(f"{spec}: is a {type(found).__name__}, not a function; name a function of that module")
    function: Callable[[], Any] = found
    return function


def _call(function: Callable[[], Any], spec: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{spec}: failed: {_told(error, spec)}; it is called without arguments: correct it") from None


def _checked(made: Any, spec: str) -> OwnBackbone:
    """Check ``made``, the result of the user's function ``spec``, and return it as an OwnBackbone.

    ``made`` must be an OwnBackbone, or a tuple (module, preprocessing, name). Raises UsageError for other values.
    """
    if isinstance(made, tuple) and len(made) == 3:
        made = OwnBackbone(*made)
    if not isinstance(made, OwnBackbone):
        raise UsageError(
            f"{spec}: returned a {type(made).__name__}, where featstore.backbones.OwnBackbone(module, preprocessing, name) is "
            "needed"
        )
    for name, value, kind in (
        ("module", made.module, nn.Module),
        ("preprocessing", made.preprocessing, Preprocessing),
        ("name", made.name, str),
        ("layer", made.layer, str),
        ("text", made.text, nn.Module | None),
        ("scale", made.scale, float),
    ):
        if not isinstance(value, kind):
            raise UsageError(
                f"{spec}: its {name} is a {type(value).__name__}; return a {getattr(kind, '__name__', 'Module')}"
            )
    if not is_name(made.name):
        raise UsageError(
            f"{spec}: its name is {made.name!r}; use lower-case letters, digits and _ . + -, at most 100 of them"
        )
    return made


def _try(module: nn.Module, side: int, spec: str) -> int:
    """Run the user's network ``module`` on two random pictures; return the dimension of its features.

    Raises UsageError if the network fails or its features are unusable.
    """
    pictures = torch.rand(_PROBES, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            # Test a single picture too: a network that squeezes its output loses the batch axis in this case.
            first, second, alone = module(pictures), module(pictures), module(pictures[:1])
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{spec}: its network fails on pictures of {side} x {side} pixels: {_told(error, spec)}; correct it"
        ) from None
    for made, count in ((first, _PROBES), (alone, 1)):
        if not isinstance(made, torch.Tensor) or made.shape[1:] == (0,) or not _are_features(made, count, first):
            shape = tuple(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
            raise UsageError(
                f"{spec}: its network returns {shape} for {counted(count, 'picture')}; return floats of shape (n, d), of the "
                "same d for every n"
            )
    if not torch.isfinite(first).all():
        raise UsageError(f"{spec}: its network returns NaN or infinity; use other weights")
    if not torch.equal(first, second):
        raise UsageError(
            f"{spec}: its network gives other features for the same pictures each time; take what is random out of it"
        )
    return int(first.shape[1])


@contextlib.contextmanager
def code_of(spec: str) -> Iterator[None]:
    """Turn errors of the network of the function ``spec`` into a UsageError: one line with the remedy.

    FeatstoreError, OSError and MemoryError are not changed.
    """
    try:
        yield
    except (FeatstoreError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{spec}: its network failed: {_told(error, spec)}; correct it, or let it return NaN for a picture that it "
            "cannot take, and run again"
        ) from None


def _are_features(made: torch.Tensor, count: int, other: torch.Tensor) -> bool:
    """Return whether ``made`` is a floating-point tensor of shape (``count``, d), with the same d as ``other``."""
    return made.is_floating_point() and made.ndim == 2 and len(made) == count and made.shape[1] == other.shape[-1]


def _told(error: BaseException, spec: str) -> str:
    """Return a one-line message for ``error``, with the file and line where the error occurred.

    If the traceback passes through the package of the user's function, the line is from that package.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    module = sys.modules.get(spec.partition(":")[0])
    folder = os.path.join(os.path.dirname(getattr(module, "__file__", None) or "/nowhere/none"), "")
    own = [frame for frame in frames if frame.filename.startswith(folder)]
    own = own or [frame for frame in frames if not frame.filename.startswith(_FEATSTORE)]
    place = f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""
    text = " ".join(str(error).split())[:200]
    return printable(f"{type(error).__name__}{': ' if text else ''}{text}{place}")
