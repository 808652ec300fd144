"""What a training run takes: inputs with class numbers, and the layers that are trained in each epoch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Examples(Protocol):
    """Inputs of the network, and the class number of each. The training does not know where they come from."""

    codes: NDArray[np.intp]
    """Class numbers (n,)."""

    def __len__(self) -> int:
        """Return the number of rows n."""
        ...

    def batches(self, rows: NDArray[np.intp], epoch: int, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        """Yield (inputs (m, ...) float32, their rows (m,)) of ``rows``, in order, about ``size`` rows at a time.

        ``rows`` may name a row several times. ``epoch``, counted from 1, chooses the augmented view.
        """
        ...


class Phases(Protocol):
    """Which layers are trained in which epoch, counted from 1."""

    def frozen(self, epoch: int) -> str:
        """Return in words which layers are frozen."""
        ...

    def start(self, epoch: int) -> list[dict[str, Any]]:
        """Freeze and unfreeze the layers for ``epoch``; return the parameter groups.

        A group is a dict with "params", their "names" in the network, "lr" and "weight_decay".
        """
        ...


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on and held-out rows that measure each epoch, with the names of the classes in the order of codes.

    ``digest``: names the data (store, split, views); a checkpoint with another digest is refused.
    """

    training: Examples
    held_out: Examples
    classes: Sequence[str]
    digest: str = ""


def regrouped(
    batches: Iterator[tuple[Tensor, NDArray[np.intp]]], rows: NDArray[np.intp], sizes: Sequence[int]
) -> Generator[tuple[Tensor, NDArray[np.intp]]]:
    """Yield ``batches`` with the numbers of rows of ``sizes``; only batches of other sizes are copied.

    Raises RuntimeError if they do not have exactly ``rows``, in order.
    """
    wrong = RuntimeError("the examples did not yield the rows that were asked for, in their order")
    start = 0
    try:
        for size in sizes:
            parts: list[tuple[Tensor, NDArray[np.intp]]] = []
            while (missing := size - sum(len(part) for _, part in parts)) > 0:
                found = next(batches, None)
                if found is None:
                    raise wrong
                parts.append(found)
            expected = rows[start : start + size]
            start += size
            inputs = parts[0][0] if len(parts) == 1 else torch.cat([each for each, _ in parts])
            if (
                missing
                or len(inputs) != size
                or not np.array_equal(np.concatenate([part for _, part in parts]), expected)
            ):
                raise wrong
            yield inputs, expected
        if next(batches, None) is not None:
            raise wrong
    finally:
        if close := getattr(batches, "close", None):
            close()
