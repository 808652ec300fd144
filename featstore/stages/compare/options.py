"""The options of the comparison of transfer methods: one object for the Python function and the command."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from featstore import defaults
from featstore.errors import UsageError
from featstore.text import did_you_mean

METHODS: Final = {
    "scratch": "from scratch",
    "linear": "frozen + linear",
    "mlp": "frozen + MLP",
    "last-block": "fine-tuned last block",
    "gradual": "gradual unfreezing",
    "all": "fine-tuned, every layer",
}
"""Map from the name of each transfer method to its title, in the order of tables."""
BASELINE: Final = "linear"
"""The method with which every other method is compared; it is always included."""
MOST_SEEDS: Final = 100


class TransferKeywords(TypedDict, total=False):
    """Keyword arguments of ``compare``: the fields of TransferOptions, all optional."""

    methods: Sequence[str]
    seeds: int
    epochs: int
    backbone: str | None
    weights: str | None
    size: int | None
    root: str | os.PathLike[str] | None
    batch: int
    device: str
    workers: int | None


@dataclass(frozen=True)
class TransferOptions:
    """Options of the comparison of transfer methods. Raises UsageError for a value that is out of range.

    Attributes
    ----------
    methods
        Names in METHODS; the baseline "linear" is always included.
    seeds
        Number of runs of each method, with the seeds 0, 1, ... A seed determines the network's random start, the
        batches, the augmentation, and the split if the store has no splits.
    epochs
        Passes over the training pictures of every method that trains layers of the network.
    backbone, weights, size
        As in featstore.extract; for a source that is a store: those of the store.
    root
        The present folder of the pictures, if they were moved.
    batch
        Pictures per batch.
    device
        "auto", "cpu", "cuda", "cuda:1".
    workers
        Number of decoding threads; default: one per core.
    """

    methods: Sequence[str] = tuple(METHODS)
    seeds: int = defaults.COMPARED_SEEDS
    epochs: int = defaults.TUNING_EPOCHS
    backbone: str | None = None
    weights: str | None = None
    size: int | None = None
    root: str | os.PathLike[str] | None = None
    batch: int = defaults.BATCH
    device: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise UsageError(f"methods: {name!r} is not one of {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
        if not set(self.methods) - {BASELINE}:
            raise UsageError(f"methods: name at least one method to compare with {BASELINE}: {', '.join(METHODS)}")
        if not (type(self.seeds) is int and 1 <= self.seeds <= MOST_SEEDS):
            raise UsageError(f"seeds: {self.seeds!r} is not a whole number from 1 to {MOST_SEEDS}")
        for name in ("epochs", "batch", "workers"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= 1):
                raise UsageError(f"{name}: {value!r} is not a whole number of at least 1")

    @property
    def names(self) -> list[str]:
        """The methods to run, in the order of METHODS, with the baseline."""
        return [name for name in METHODS if name in {*self.methods, BASELINE}]

    def plan(self) -> dict[str, Any]:
        """Return the options that determine the result of a run, as JSON; methods and seeds may be added later."""
        return {name: getattr(self, name) for name in ("epochs", "backbone", "weights", "size", "batch", "device")}
