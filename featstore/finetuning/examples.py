"""The inputs of a training run: examples with class numbers, and the layers that are trained in each epoch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Examples(Protocol):
    """Inputs of the network, and the class number of each input. The inputs may come from any place."""

    codes: NDArray[np.intp]
    """Class numbers (n,)."""

    def __len__(self) -> int:
        """Return the number of rows n."""
        ...

    def batches(self, rows: NDArray[np.intp], epoch: int, size: int) -> Iterator[tuple[Tensor, NDArray[np.intp]]]:
        """Yield (inputs (m, ...) float32, row numbers (m,)) for ``rows``, in order, in batches of about ``size`` rows.

        ``rows`` may name a row several times. ``epoch``, counted from 1, chooses the augmented view.
        """
        ...


class Phases(Protocol):
    """The layers that are trained in each epoch; epochs are counted from 1."""

    def frozen(self, epoch: int) -> str:
        """Return a text that says which layers are frozen."""
        ...

    def start(self, epoch: int) -> list[dict[str, Any]]:
        """Freeze and unfreeze the layers for ``epoch``; return the parameter groups.

        A group is a dict with "params", their "names" in the network, "lr" and "weight_decay".
        """
        ...


@dataclass(frozen=True)
class TrainingData:
    """Rows to train on, held-out rows for measuring each epoch, and the class names in the order of the class numbers.

    ``digest``: names the data (store, split, views); a checkpoint with another digest is refused.
    """

    training: Examples
    held_out: Examples
    classes: Sequence[str]
    digest: str = ""


def regrouped(
    batches: Iterator[tuple[Tensor, NDArray[np.intp]]], rows: NDArray[np.intp], sizes: Sequence[int]
) -> Generator[tuple[Tensor, NDArray[np.intp]]]:
    """Divide the rows of ``batches`` into batches with the numbers of rows in ``sizes``. A batch that has the right
    size already is not copied.

    Raises RuntimeError if the batches do not have exactly ``rows``, in order.
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
