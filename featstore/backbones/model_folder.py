"""Write the backbone of a fine-tuned model into a model folder, and load it (see featstore.files.model_folder)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from featstore.backbones import architectures, base, checkpoints
from featstore.backbones.layers import resized, take
from featstore.decode import Preprocessing
from featstore.defaults import OUTPUT_OF, POOLS
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic, model_folder
from featstore.files.model_folder import Description
from featstore.text import printable

_LARGEST_HEADER: Final = 16 << 20
"""Maximum number of bytes of a weights file in addition to its tensors."""


def require_rebuildable(backbone: base.Backbone) -> None:
    """Raise UsageError if ``backbone`` cannot be saved as a model folder, as only the user's own code builds it."""
    try:
        architectures.find(backbone.name)
    except UsageError:
        raise UsageError(
            f"{printable(backbone.name)}: comes from your own function, and a model folder holds no code; fine-tune a "
            "network that featstore backbones lists"
        ) from None


def authors_network(backbone: base.Backbone) -> nn.Module:
    """Return the network of ``backbone``, with the module names that the network's authors gave.

    For features of an inner layer this is the part up to this layer; the pooling around it is left off.
    """
    module = backbone.module
    if backbone.layer.startswith(OUTPUT_OF):
        module = module.get_submodule("module")
        # Networks that torch.fx cannot trace stay whole, see layers.take.
        inner = dict(module.named_children())
        module = inner["network"] if set(inner) == {"network"} else module
    return module


def retuned(backbone: base.Backbone, weights: str) -> base.Backbone:
    """Return ``backbone`` after its parameters were trained: with the digest of the present tensors.

    ``weights``: the new name of the weights, such as the path of the model. The text tower is removed: its vectors
    belong to the features before the training.
    """
    digest = base.digest(authors_network(backbone))
    return replace(backbone, weights=weights, weights_digest=digest, text=None)


def state_of(backbone: base.Backbone) -> dict[str, Tensor]:
    """Return the tensors of the network by the authors' names, contiguous, on the CPU, each with its own memory."""
    network = authors_network(backbone)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}


def transform_input_of(backbone: base.Backbone) -> bool | None:
    """Return the option ``transform_input`` of torchvision's Inception and GoogLeNet; None for other networks."""
    if not {"transform_input"} & set(architectures.find(backbone.name).trained):
        return None
    found = getattr(authors_network(backbone), "transform_input", None)
    # A traced part of a network lacks the attribute ``transform_input``. Only networks with trained weights transform
    # their input.
    return found if isinstance(found, bool) else not backbone.weights.startswith("random:")


def write_weights(folder: Path, backbone: base.Backbone) -> None:
    """Write ``weights.safetensors`` of a model folder. Raises UsageError if a tensor has NaN or infinity; OSError if
    writing fails.
    """
    odd = base.non_finite(authors_network(backbone))
    if odd is not None:
        raise UsageError(f"{backbone.name}: its tuned weights hold NaN or infinity in {odd}; train with a smaller rate")
    write_tensors(folder / model_folder.WEIGHTS, state_of(backbone))


def write_tensors(file: Path, state: dict[str, Tensor]) -> None:
    """Write ``state`` as a safetensors file, atomically."""
    from safetensors.torch import save_file

    with atomic.new_file(file) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        save_file(state, temporary, {"format": "pt"})
        # safetensors writes a file that only its owner may read; give the file the permissions of any new file.
        temporary.chmod(mode)


def load_model_backbone(path: str | os.PathLike[str]) -> base.Backbone:
    """Return the fine-tuned backbone in the model folder ``path``, which has to come from the user.

    In the result, ``name`` is the name of the architecture, and ``weights`` is ``path`` as given. No code in the folder
    is run, and no file outside it is opened. Raises UsageError if ``path`` is no model folder or the architecture's
    package is missing; DamagedError if a file of the model is damaged or does not fit the others; OSError if a file
    cannot be read.
    """
    folder = Path(path)
    about = model_folder.read_description(folder)
    backbone, network = _without_values(about, folder)
    wanted = network.state_dict()
    largest = sum(each.numel() * each.element_size() for each in wanted.values()) + _LARGEST_HEADER
    file = model_folder.check_file(folder, model_folder.WEIGHTS, about, largest)
    try:
        state = checkpoints.read_state(file)
        _require_types(state, wanted, file)
        # In a memory-mapped file tensors are not aligned to 64 bytes; oneDNN then rounds some results in another way.
        aligned = {name: state.pop(name).clone() for name in list(state)}
        checkpoints.fill(network, aligned, str(file), about.architecture, "")
    except UsageError as error:
        raise DamagedError(printable(str(error))) from None
    odd = base.non_finite(network)
    if odd is not None:
        raise DamagedError(f"{file}: holds NaN or infinity in {odd}")
    digest = base.digest(network)
    if digest != about.digest:
        raise DamagedError(
            f"{file}: its tensors are not those that {model_folder.DESCRIPTION} describes; copy the model again"
        )
    backbone.module.eval().requires_grad_(False)
    return replace(backbone, weights=os.fspath(path), weights_digest=digest)


def _without_values(about: Description, folder: Path) -> tuple[base.Backbone, nn.Module]:
    """Return the backbone that a model's description names, without weights, and its network with the authors' module
    names.
    """
    where = folder / model_folder.DESCRIPTION
    try:
        preprocessing = Preprocessing.from_dict(about.preprocessing)
    except (UsageError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"{where}: {printable(str(error))}") from None
    if about.pool not in ("", *POOLS):
        raise DamagedError(f"{where}: there is no pool {about.pool!r}; there are {', '.join(POOLS)}")
    try:
        architecture = architectures.find(about.architecture)
    except UsageError as error:
        raise UsageError(f"{where}: {printable(str(error))}") from None
    # A vision transformer has position embeddings for one picture size, which its constructor needs.
    entries = architecture.entries.values()
    entry = next((each for each in entries if each.preprocessing.crop == preprocessing.crop), architecture.default)
    network: Any = architecture.empty(entry)
    if about.transform_input is not None:
        network.transform_input = about.transform_input
    classifier, dimension = architecture.cut(network)
    module, _ = architecture.towers(network)
    layer = f"input of {classifier}" if classifier else "output"
    backbone = base.Backbone(architecture.name, layer, dimension, "", "", entry.preprocessing, module)
    try:
        backbone = resized(backbone, preprocessing.crop, None)
        if about.layer.startswith(OUTPUT_OF):
            backbone = take(backbone, about.layer.removeprefix(OUTPUT_OF), about.pool or None)
    except UsageError as error:
        raise DamagedError(f"{where}: {printable(str(error))}") from None
    described = (about.architecture, about.layer, about.pool, about.shape, about.dimension)
    if described != (backbone.name, backbone.layer, backbone.pool, backbone.shape, backbone.dimension):
        raise DamagedError(f"{where}: its layer, shape or dimension are not those of {backbone.name}")
    backbone = replace(backbone, preprocessing=preprocessing)
    network = authors_network(backbone)
    if about.transform_input is not None:
        network.transform_input = about.transform_input
    return backbone, network


def _require_types(state: dict[str, Tensor], wanted: dict[str, Tensor], file: Path) -> None:
    for name, tensor in state.items():
        if name in wanted and tensor.dtype != wanted[name].dtype:
            raise UsageError(f"{file}: {name} is of {tensor.dtype}, where {wanted[name].dtype} is needed")


def classifier_tensors(backbone: base.Backbone, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a classifier that is attached to ``backbone``, with the authors' tensor names.

    ``weight`` (k, d), ``bias`` (k,). A classifier that is a 1 x 1 convolution gets a weight of shape (k, d, 1, 1).
    """
    name = backbone.layer.removeprefix("input of ")
    network = architectures.find(backbone.name).empty(architectures.find(backbone.name).default)
    if isinstance(network.get_submodule(name), nn.Conv2d):
        weight = weight[:, :, None, None]
    return {f"{name}.weight": weight.contiguous(), f"{name}.bias": bias.contiguous()}
