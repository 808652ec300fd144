"""The options of fine-tuning: one object for the Python function and the command."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, Final, TypedDict

from featstore import defaults
from featstore.errors import UsageError

HEADS: Final = {"linear": "logreg", "mlp": "mlp"}
"""Map from each kind of attached head to the kind of head in featstore.heads from which it starts."""
AUGMENTS: Final = ("none", *defaults.POLICIES)
OPTIMIZERS: Final = ("adamw", "adam", "sgd")
BALANCES: Final = ("none", "weights", "sampler")
NO_CACHE: Final = "none"
"""Value of the option ``cache`` for no cache: the frozen layers run in every epoch."""
_TO_CHOOSE: Final = {
    "head": tuple(HEADS),
    "augment": AUGMENTS,
    "optimizer": OPTIMIZERS,
    "batch_norm": (None, "keep", "train"),
    "balance": BALANCES,
    "dtype": ("float16", "float32"),
}
_RANGES: Final = {
    "lr": (1e-12, 1e3),
    "label_smoothing": (0.0, 0.9),
    "epochs": (1, 1000),
    "batch": (1, 1 << 16),
    "accumulate": (1, 1 << 16),
}
"""Smallest and largest allowed values of numeric options, as in featstore.finetuning.plan.Plan."""


class FinetuneKeywords(TypedDict, total=False):
    """Keyword arguments of ``finetune``: the fields of FinetuneOptions, all optional."""

    backbone: str | None
    weights: str | None
    size: int | None
    root: str | os.PathLike[str] | None
    head: str
    freeze_to: str | None
    unfreeze: tuple[tuple[str, int], ...]
    all_layers: bool
    from_scratch: bool
    epochs: int
    lr: float
    augment: str
    views: int | None
    optimizer: str
    batch_norm: str | None
    balance: str
    label_smoothing: float
    accumulate: int
    batch: int
    cache: int | str | None
    dtype: str
    train_split: str | None
    test_split: str | None
    held_out: float | None
    device: str
    workers: int | None
    seed: int
    resume: bool
    force: bool
    tensorboard: str | os.PathLike[str] | None
    weights_only: str | os.PathLike[str] | None


@dataclass(frozen=True)
class FinetuneOptions:
    """Options of fine-tuning. Raises UsageError for a value that is out of range or a contradiction.

    Attributes
    ----------
    backbone, weights, size
        As in featstore.extract; for a source that is a store: those of the store.
    root
        The present folder of the pictures, if they were moved.
    head
        "linear": starts as the logistic head of the stored features; "mlp": as a multilayer perceptron.
    freeze_to
        Every layer up to and including this one is frozen. Default: all but the last block with parameters; with
        ``unfreeze``, all layers, so that the head trains alone until the first of these epochs.
    unfreeze
        (layer, epoch) pairs: from that epoch on, counted from 1, the layer and all layers after it train.
    all_layers
        Whether every layer trains.
    from_scratch
        Whether the network starts from random weights, and every layer trains.
    epochs
        Number of passes over the training pictures.
    lr
        Learning rate of the head; it falls to 0 by a half cosine. The last block has defaults.TUNING_LAYER_DECAY times
        this rate, and each block before has that factor times the rate of the block after it; with ``from_scratch`` all
        layers have the same rate.
    augment, views
        Augmentation policy, and how many augmented views of each picture the epochs take in turn; default:
        defaults.TUNING_VIEWS, and at most one per epoch.
    optimizer
        "adamw", "adam" or "sgd" (with momentum).
    batch_norm
        "keep": BatchNorm keeps its statistics in all layers, and only its scale and shift are trained; "train": the
        statistics of trained layers follow the batches. Default: "keep"; for training from scratch "train". With
        EfficientNet-Lite0 on hymenoptera the held-out log loss stays at 0.121 with "keep" and rises to 0.18 with
        "train".
    balance
        "weights": the loss of a picture is weighted inversely to the size of its class; "sampler": each epoch draws all
        classes equally often.
    label_smoothing
        Share of the target that is spread over all classes.
    accumulate
        Number of batches whose gradients are summed for one step of the optimizer.
    batch
        Pictures per batch.
    cache
        Largest size in bytes of the frozen layers' activations on disk; "none": run the frozen layers live. Default: a
        share of the free disk, and only if each view serves more than one epoch and the frozen layers are not merely
        the first ones of the network. Cached activations (float16) give slightly other weights than live ones. The
        choice depends on counts, sizes and the free disk, never on measured times, so the same command makes the same
        choice again.
    dtype
        Type of the cached activations of the training pictures.
    train_split, test_split
        Which rows to train on and to hold out, see featstore.store.splitting.split_store.
    held_out
        Share to hold out if the pictures have no such splits; default: defaults.HELD_OUT.
    device
        "auto", "cpu", "cuda", "cuda:1".
    workers
        Number of decoding threads; default: one per core.
    seed
        Seed of the split, the views, the batches and dropout.
    resume
        Whether to continue an interrupted run from its last epoch.
    force
        Whether to replace an existing model and, without ``resume``, an interrupted run.
    tensorboard
        Folder for TensorBoard event files.
    weights_only
        File for a copy of the tuned backbone's weights alone (safetensors).
    """

    backbone: str | None = None
    weights: str | None = None
    size: int | None = None
    root: str | os.PathLike[str] | None = None
    head: str = "linear"
    freeze_to: str | None = None
    unfreeze: tuple[tuple[str, int], ...] = ()
    all_layers: bool = False
    from_scratch: bool = False
    epochs: int = defaults.TUNING_EPOCHS
    lr: float = defaults.TUNING_LEARNING_RATE
    augment: str = defaults.TUNING_AUGMENT
    views: int | None = None
    optimizer: str = "adamw"
    batch_norm: str | None = None
    balance: str = "none"
    label_smoothing: float = 0.0
    accumulate: int = 1
    batch: int = defaults.BATCH
    cache: int | str | None = None
    dtype: str = "float16"
    train_split: str | None = None
    test_split: str | None = None
    held_out: float | None = None
    device: str = "auto"
    workers: int | None = None
    seed: int = defaults.SEED
    resume: bool = False
    force: bool = False
    tensorboard: str | os.PathLike[str] | None = None
    weights_only: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, known in _TO_CHOOSE.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(filter(None, known))}")
        for name in ("epochs", "accumulate", "batch", "views", "workers"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= 1):
                raise UsageError(f"{name}: {value!r} is not a whole number of at least 1")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise UsageError(f"{name}: {getattr(self, name)!r} is not a number from {least:g} to {most:g}")
        if not (type(self.seed) is int and 0 <= self.seed <= defaults.LARGEST_SEED):
            raise UsageError(f"seed: {self.seed!r} is no seed (0 to {defaults.LARGEST_SEED})")
        if self.held_out is not None and not 0 < self.held_out < 1:
            raise UsageError(f"held_out: {self.held_out!r} is not a share between 0 and 1")
        if self.cache not in (None, NO_CACHE) and not (type(self.cache) is int and self.cache > 0):
            raise UsageError(f"cache: {self.cache!r} is neither a number of bytes nor {NO_CACHE!r}")
        if self.views is not None and self.augment == "none":
            raise UsageError("views: without augmentation all views are equal; leave views out, or choose augment")
        self._check_layers()

    def _check_layers(self) -> None:
        """Raise UsageError if the options that say which layers train contradict each other."""
        everything = "all_layers" if self.all_layers else "from_scratch" if self.from_scratch else ""
        if everything and (self.freeze_to is not None or self.unfreeze):
            raise UsageError(f"{everything} trains every layer; leave freeze_to and unfreeze out")
        if self.freeze_to == "" or any(not layer for layer, _ in self.unfreeze):
            raise UsageError(
                "freeze_to and unfreeze: the name of a layer is empty; to train every layer, choose all_layers"
            )
        for layer, epoch in self.unfreeze:
            if not 1 <= epoch <= self.epochs:
                raise UsageError(f"unfreeze: {layer}@{epoch} is none of the epochs 1 to {self.epochs:,}")
        if len({layer for layer, _ in self.unfreeze}) < len(self.unfreeze):
            raise UsageError("unfreeze: a layer is named twice")
        if len({epoch for _, epoch in self.unfreeze}) < len(self.unfreeze):
            raise UsageError(
                "unfreeze: names two layers for one epoch; name only the lower one, which includes the other"
            )

    @property
    def keeps_statistics(self) -> bool:
        """Whether BatchNorm keeps its statistics during training."""
        return (self.batch_norm or ("train" if self.from_scratch else "keep")) == "keep"

    @property
    def threads(self) -> int:
        """Number of decoding threads."""
        return self.workers or os.cpu_count() or 1

    @property
    def view_count(self) -> int:
        """Number of augmented views; 0 without augmentation."""
        if self.augment == "none":
            return 0
        return min(self.epochs, self.views or defaults.TUNING_VIEWS)

    def to_dict(self) -> dict[str, Any]:
        """Return the options that determine the result, as JSON: the training record of the model."""
        other = ("root", "workers", "resume", "force", "tensorboard", "weights_only")
        value = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in other}
        return {**value, "unfreeze": [list(pair) for pair in self.unfreeze]}
