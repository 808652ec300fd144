"""Models: a fine-tuned backbone with its head, in one folder (see featstore.files.model_folder)."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featstore import defaults
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic, model_folder
from featstore.files.model_folder import is_model
from featstore.store.origin import KEY
from featstore.store.targets import CLASSES

if TYPE_CHECKING:
    from featstore.backbones import Backbone
    from featstore.heads import TrainedHead
    from featstore.store import Identity

__all__ = ["Model", "head_of", "is_model", "load_model", "tuned_identity", "write_model", "write_weights_only"]


_OF_FROZEN: Final = ("request", "data", "cross_validation", "chosen")
"""Entries of a head's description that say how the head was trained on the features of the frozen network."""


@dataclass(frozen=True)
class Model:
    """A fine-tuned backbone, its head, and the record of the training (JSON)."""

    backbone: Backbone
    head: TrainedHead
    record: dict[str, Any]


def tuned_identity(backbone: Backbone, decoder: str = "") -> Identity:
    """Return the identity of the features of ``extract --backbone MODEL`` on a CPU with fp32 and all other options at
    their defaults.

    ``decoder``: name of the decoder of the pictures; "" for the default decoder.
    """
    from featstore.decode import DECODER
    from featstore.embed.recipe import of_backbone
    from featstore.store import Identity

    return Identity(**of_backbone(backbone), decoder=decoder or DECODER, precision="fp32", dtype=defaults.DTYPE)


def write_model(
    folder: str | os.PathLike[str],
    backbone: Backbone,
    head: TrainedHead,
    record: Mapping[str, Any],
    *,
    metrics: Sequence[Mapping[str, Any]] = (),
    decoder: str = "",
    force: bool = False,
) -> Model:
    """Write a model folder atomically, and return the model as it was written.

    ``backbone``: the network with the tuned parameters. Its fields ``weights`` and ``weights_digest`` may still be
    those from before the training. ``head``: trained on the features of this module; the identity of its features is
    replaced by that of the tuned features. The head keeps the record of the store on which it was trained, but not the
    options of ``train``, because training with these options would not give this head again. ``record``: how the model
    was trained; NaN and infinity are written as null. ``metrics``: one mapping for each epoch, written as
    ``metrics.csv``. ``decoder``: name of the decoder of the pictures on which the network was trained, "" for the
    default decoder; predictions use the same decoder. ``force``: replace an existing model. Raises UsageError if
    ``folder`` exists and may not be replaced, if the backbone is the user's own function, or if the head does not fit;
    OSError if writing fails.
    """
    from featstore.backbones.model_folder import require_rebuildable, retuned, transform_input_of, write_weights
    from featstore.heads.headfile import save_head

    name, place = os.fspath(folder), Path(folder)
    require_rebuildable(backbone)
    model_folder.require_replaceable(place, force)
    if head.dimension != backbone.dimension:
        raise UsageError(f"{name}: a head of {head.dimension:,} values does not fit features of {backbone.dimension:,}")
    tuned = retuned(backbone, name)
    identity = tuned_identity(tuned, decoder)
    origin = head.meta.get(KEY)
    known = origin if isinstance(origin, dict) else {}
    ours = {each: known[each] if isinstance(known.get(each), str) else "" for each in ("store", "store_id")}
    meta = {each: value for each, value in head.meta.items() if each not in _OF_FROZEN}
    meta |= {"chosen": {}, KEY: {"weights_name": name, **ours}}
    head = replace(head, fingerprint=identity.fingerprint, identity=identity.to_dict(), meta=meta)
    description = model_folder.Description(
        architecture=tuned.name,
        layer=tuned.layer,
        pool=tuned.pool,
        shape=tuned.shape,
        dimension=tuned.dimension,
        preprocessing=tuned.preprocessing.to_dict(),
        transform_input=transform_input_of(backbone),
        digest=tuned.weights_digest,
        classes=list(head.classes),
        head=head.kind,
        record=_as_json(record),
    )
    with atomic.only_writer(place, "model"), model_folder.new_folder(place, force=force) as new:
        write_weights(new, tuned)
        save_head(new / model_folder.HEAD, head)
        if metrics:
            atomic.write_bytes(new / model_folder.METRICS, _csv(metrics))
        model_folder.write_description(new, description)
    return Model(tuned, head, description.record)


def _as_json(value: Any) -> Any:
    """Return ``value`` as JSON: arrays as lists, NaN and infinity as None, other types as text."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _csv(metrics: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for each in metrics for key in each)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(metrics)
    return text.getvalue().encode()


def head_of(folder: str | os.PathLike[str]) -> TrainedHead:
    """Return the head of a model folder after checking that it fits the folder's description.

    Raises UsageError if ``folder`` is no model folder; DamagedError if it is damaged; OSError if it cannot be read.
    """
    from featstore.heads import load_head

    place = Path(folder)
    about = model_folder.read_description(place)
    path = model_folder.check_file(place, model_folder.HEAD, about)
    head = load_head(path, follow=False)
    identity = head.identity
    described = (about.classes, about.dimension, about.architecture, about.digest, about.layer, about.head)
    found = (
        head.classes,
        head.dimension,
        *(identity.get(key) for key in ("backbone", "weights", "layer")),
        head.kind,
    )
    if described != found or head.task != CLASSES:
        raise DamagedError(f"{path}: is not the head that {model_folder.DESCRIPTION} describes; copy the model again")
    return head


def load_model(folder: str | os.PathLike[str]) -> Model:
    """Return the model in ``folder``: its backbone, head and training record.

    Raises UsageError if ``folder`` is no model folder; DamagedError if it is damaged; OSError if it cannot be read.
    """
    from featstore.backbones.model_folder import load_model_backbone

    head = head_of(folder)
    return Model(load_model_backbone(folder), head, model_folder.read_description(Path(folder)).record)


def write_weights_only(file: str | os.PathLike[str], backbone: Backbone, head: TrainedHead | None = None) -> list[str]:
    """Write the tensors of the tuned network to a safetensors file, with the authors' tensor names. Return notes for
    the user.

    If the head is linear and replaces the classifier, the file also has the classifier's tensors. The authors' class
    then loads the file with ``num_classes`` set to the number of classes. For two classes the two outputs are plus and
    minus half the decision value; their softmax is the head's probability. Raises UsageError if ``file`` exists and is
    no safetensors file, or if a tensor has NaN or infinity; OSError if writing fails.
    """
    import torch

    from featstore.backbones import base
    from featstore.backbones.model_folder import authors_network, classifier_tensors, state_of, write_tensors
    from featstore.heads.models import LinearModel

    place = Path(file)
    atomic.require_place(place)
    if os.path.lexists(place) and (place.suffix != ".safetensors" or not place.is_file()):
        raise UsageError(f"{place}: exists and is no .safetensors file; name another file")
    odd = base.non_finite(authors_network(backbone))
    if odd is not None:
        raise UsageError(f"{backbone.name}: its tuned weights hold NaN or infinity in {odd}; train with a smaller rate")
    state, notes = state_of(backbone), list[str]()
    model = None if head is None else head.model
    if isinstance(model, LinearModel) and backbone.layer.startswith("input of "):
        coef, intercept = model.coef * model.scale, model.intercept * model.scale
        if len(coef) == 1:
            coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        weight, bias = (torch.from_numpy(np.ascontiguousarray(each, np.float32)) for each in (coef, intercept))
        state |= classifier_tensors(backbone, weight, bias)
    elif head is not None:
        notes.append(
            f"the head ({head.kind}) is no linear layer at the place of the network's classifier, so the file has the network "
            "without a classifier"
        )
    write_tensors(place, state)
    return notes
