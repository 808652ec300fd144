"""Load the tensors of a checkpoint file into a network, without running any code in the file."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from featstore.errors import FeatstoreError, UsageError

SUFFIXES: Final = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model")
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")
_PREFIXES: Final = ("module.", "_orig_mod.")
_DENSENET_OLD: Final = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
"""Old names of tensors in DenseNet's published weights, with dots in module names (see torchvision's densenet.py)."""


def read_state(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name.

    ``.safetensors`` files are read by safetensors, others by ``torch.load(weights_only=True)``. The content is a state
    dict, or a dict that has the state dict under "state_dict", "model_state_dict" or "model". Name prefixes of
    DataParallel and torch.compile are removed. Raises UsageError for any other content. A pickle with other objects
    than tensors is refused, because loading such a pickle could run code.
    """
    if not file.is_file():
        # Look for "https:/", because Path("https://...") keeps only one of the two slashes.
        hint = "; addresses are not opened: download the file first" if re.match("[a-z0-9]{2,}:/", str(file)) else ""
        raise UsageError(f"{file}: there is no such checkpoint file{hint}")
    state = _read_safetensors(file) if file.suffix == ".safetensors" else _read_torch(file)
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
            break
    if not isinstance(state, dict) or not state:
        raise UsageError(f"{file}: holds no state dict; save the model's state_dict() instead")
    size = file.stat().st_size
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UsageError(f"{file}: {name!r} is no tensor, so this is no state dict; save the model's state_dict()")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise UsageError(f"{file}: {name} is no plain tensor of numbers; save a dense, unquantised model")
        # A tensor with stride 0 can have any size in a small file; converting its type would allocate the full size.
        if value.numel() * value.element_size() > size:
            raise UsageError(f"{file}: {name} claims more bytes than the file has; save the model's state_dict()")
    return _without_prefix(state)


def _read_safetensors(file: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file, device="cpu")
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise UsageError(f"{file}: not a readable safetensors file ({_first_line(error)})") from None


def _read_torch(file: Path) -> Any:
    # torch.save does not compress; a compressed archive could expand to far more memory than its file size.
    if zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as archive:
                compressed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            compressed = True
        if compressed:
            raise UsageError(f"{file}: not a checkpoint that torch.save wrote")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FeatstoreError(f"{file}: cannot be read ({_first_line(error)})") from None
    except Exception:  # torch.load raises many exception types for foreign or damaged files
        raise UsageError(
            f"{file}: damaged, or holds more than tensors, which is not loaded because it could run code; "
            "save the model's state_dict() with torch.save, or as .safetensors"
        ) from None


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    metadata = getattr(state, "_metadata", None)
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            metadata = metadata and {key.removeprefix(prefix): value for key, value in metadata.items()}
    result = OrderedDict(state)
    if metadata:
        result._metadata = metadata  # type: ignore[attr-defined]
    return result


def parameters(state: dict[str, Tensor]) -> int:
    """Return the number of parameters in a state dict, that is, all values except BatchNorm's statistics."""
    return sum(value.numel() for name, value in state.items() if not name.endswith(_STATISTICS))


def fill(network: nn.Module, state: dict[str, Tensor], origin: str, name: str, classifier: str) -> None:
    """Load the tensors of ``state``, in float32, into ``network``, whose classifier is already removed.

    Tensors of the ``classifier`` and of auxiliary classifiers are ignored.
    Raises UsageError that names a tensor that is missing, unexpected, or of the wrong shape.
    """
    dropped = (f"{classifier}.", "AuxLogits.", "aux1.", "aux2.")
    kept: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        if not key.startswith(dropped):
            kept[_DENSENET_OLD.sub(r"\1\2", key)] = value.float() if value.is_floating_point() else value
    # MNASNet reads a version from the state dict's metadata; a state dict that torch did not write has no metadata.
    kept._metadata = getattr(state, "_metadata", None) or {"": {"version": network._version}}  # type: ignore[attr-defined]
    try:
        result = network.load_state_dict(kept, strict=False, assign=True)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{origin} does not fit {name}: {_mismatch(error)}") from None
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    problems = [
        f"{what} {keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}"
        for what, keys in (("it lacks", missing), (f"{name} has no", result.unexpected_keys))
        if keys
    ]
    if problems:
        raise UsageError(f"{origin} does not fit {name}: {'; '.join(problems)}")
    network.eval().requires_grad_(False)


def _mismatch(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0]).rstrip(".")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
