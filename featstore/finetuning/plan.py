"""How a network is trained: epochs, batches, optimiser, learning rates, and the rows of each epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import DataError, UsageError
from featstore.heads.sampling import balanced_sampler
from featstore.text import did_you_mean

OPTIMISERS: Final = ("adamw", "adam", "sgd")
BALANCES: Final = ("none", "weights", "sampler")
MOST_EPOCHS: Final = 1000
WARM_UP: Final = 0.1
"""Share of the optimiser steps in which the learning rate rises linearly, as in the fine-tuning code of BERT (Devlin et
al. 2019). Without the rise, the first steps of Adam would be large although Adam's averages are computed from few
gradients (Liu et al. 2020, arXiv 1908.03265).
"""


@dataclass(frozen=True)
class Plan:
    """The settings of a training run; two runs with equal plans, data and start give the same weights on one machine.

    ``batch_size``: rows of a forward pass; ``accumulate``: number of batches whose gradients are added up for one
    optimiser step. ``learning_rate``: of the head; each block below has ``layer_decay`` times the rate of the block
    above it. ``momentum``: for the optimiser "sgd". ``label_smoothing``: share of the target that is spread over all
    classes (Szegedy et al. 2016). ``balance``: "weights" multiplies the loss of a row by n / (classes * rows of its
    class), "sampler" draws the rows of an epoch with replacement, every class equally often. ``freeze_to``: the layers
    up to and including this one are frozen at the start; "" for no layer or, with ``unfreeze``, for all layers.
    ``unfreeze``: (layer, epoch) pairs: from this epoch on the layer and all later ones are trained. ``bf16``: autocast
    to bfloat16, on CUDA only. ``keep_statistics``: whether BatchNorm keeps its statistics even in trained layers.
    """

    epochs: int = defaults.TUNING_EPOCHS
    batch_size: int = defaults.TUNING_BATCH
    learning_rate: float = defaults.TUNING_LEARNING_RATE
    layer_decay: float = defaults.TUNING_LAYER_DECAY
    optimiser: str = "adamw"
    weight_decay: float = defaults.TUNING_WEIGHT_DECAY
    momentum: float = defaults.TUNING_MOMENTUM
    label_smoothing: float = 0.0
    accumulate: int = 1
    balance: str = "none"
    unfreeze: tuple[tuple[str, int], ...] = ()
    freeze_to: str = ""
    seed: int = defaults.SEED
    bf16: bool = False
    keep_statistics: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a setting that is out of range or of the wrong type."""
        for name, most in (("epochs", MOST_EPOCHS), ("batch_size", 1 << 16), ("accumulate", 1 << 16)):
            _require_whole(name, getattr(self, name), 1, most)
        _require_whole("seed", self.seed, 0, (1 << 63) - 1)
        ranges = {
            "learning_rate": (1e-12, 1e3),
            "layer_decay": (1e-6, 1.0),
            "weight_decay": (0.0, 1e3),
            "momentum": (0.0, 0.9999),
            "label_smoothing": (0.0, 0.9),
        }
        for name, (least, greatest) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= greatest:
                raise UsageError(f"{name} must be a number from {least:g} to {greatest:g}, not {value!r}")
        for name, known in (("optimiser", OPTIMISERS), ("balance", BALANCES)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(
                    f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}{did_you_mean(str(value), known)}"
                )
        for layer, epoch in self.unfreeze:
            _require_whole(f"the epoch of {layer} in unfreeze", epoch, 1, self.epochs)
        if len({epoch for _, epoch in self.unfreeze}) < len(self.unfreeze):
            raise UsageError(
                "unfreeze names two layers for one epoch; name only the lower one, which includes the other"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON."""
        return {**asdict(self), "unfreeze": [list(pair) for pair in self.unfreeze]}


def _require_whole(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{name} must be a whole number from {least:,} to {most:,}, not {value!r}")


def rate_factor(step: int, steps: int) -> float:
    """Return the factor of the learning rate at ``step`` (counted from 0), one of the ``steps`` optimiser steps of the
    run.

    The factor rises linearly to 1 during the first WARM_UP of the steps and then falls to 0 by a half cosine
    (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts).
    """
    rising = round(WARM_UP * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def batch_sizes(rows: int, size: int) -> list[int]:
    """Return the number of rows of each batch of an epoch of ``rows`` rows.

    All batches have ``size`` rows, except that the last may have fewer. A last batch of one row is added to the batch
    before, because BatchNorm has no variance in a batch of one row.
    """
    sizes = [size] * (rows // size) + ([rows % size] if rows % size else [])
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def steps_of(rows: int, plan: Plan) -> int:
    """Return the number of optimiser steps of an epoch of ``rows`` rows."""
    return math.ceil(len(batch_sizes(rows, plan.batch_size)) / plan.accumulate)


def order_of(codes: NDArray[np.intp], plan: Plan, epoch: int) -> NDArray[np.intp]:
    """Return the rows (n,) of ``epoch`` in the order of training; ``codes`` (n,): the class number of each row.

    The rows depend on the plan's seed and the epoch only, so that a resumed run draws the same rows.
    """
    random = np.random.default_rng([plan.seed, epoch])
    rows = np.arange(len(codes))
    return balanced_sampler(rows, codes)(random) if plan.balance == "sampler" else random.permutation(rows)


def torch_seed(plan: Plan, epoch: int) -> int:
    """Return the seed of torch's generator (dropout, stochastic depth) for ``epoch``; it depends on the plan's seed and
    ``epoch``.
    """
    return int(np.random.SeedSequence([plan.seed, epoch, 1]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def loss_weights(codes: NDArray[np.intp], classes: int, balance: str) -> NDArray[np.float32]:
    """Return the factor (n,) of each row's loss; the mean of all factors is 1. ``codes`` (n,): class numbers.

    Raises DataError if fewer than two classes have a row, or if one of the ``classes`` has no row.
    """
    counts = np.bincount(codes, minlength=classes)
    if classes < 2 or np.count_nonzero(counts) < 2:
        raise DataError("the rows to train on are of one class only: a classifier needs at least two")
    if not counts.all():
        raise DataError(
            f"{np.count_nonzero(counts == 0):,} of {classes:,} classes have no row to train on: label pictures of them for "
            "training, or leave these classes out"
        )
    if balance != "weights":
        return np.ones(len(codes), np.float32)
    return np.asarray((len(codes) / (classes * counts))[codes], np.float32)
