"""The figures of each epoch: measured on held-out rows, and written to a CSV table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.files import atomic
from featstore.heads.calibration import log_softmax
from featstore.heads.solvers.losses import predict_codes

METRICS: Final = "metrics.csv"


@dataclass(frozen=True)
class EpochRecord:
    """The figures of one epoch; epoch 0 is the start, before any training.

    ``frozen``: which layers are frozen, in words. ``learning_rate``: the highest learning rate in the epoch. ``loss``
    and ``accuracy``: of the training rows, measured during training (with augmentation, dropout, label smoothing and
    class weights); None in epoch 0. ``held_out_loss``: mean log loss of the held-out rows; ``held_out_macro_f1``:
    scikit-learn's macro F1. ``seconds``: of training and evaluation.
    """

    epoch: int
    frozen: str
    learning_rate: float | None
    loss: float | None
    accuracy: float | None
    held_out_loss: float
    held_out_accuracy: float
    held_out_macro_f1: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Any) -> EpochRecord:
        """Return the record of an epoch from ``value``, JSON that ``to_dict`` made.

        Raises ValueError for anything else.
        """
        optional = {"learning_rate", "loss", "accuracy"}
        if not isinstance(value, dict) or set(value) != {field.name for field in fields(cls)}:
            raise ValueError("not the record of an epoch")
        for name, item in value.items():
            if name == "epoch":
                right = isinstance(item, int) and not isinstance(item, bool) and item >= 0
            elif name == "frozen":
                right = isinstance(item, str) and item.isprintable()
            else:
                right = (item is None and name in optional) or (isinstance(item, float) and math.isfinite(item))
            if not right:
                raise ValueError(f"the value {name} of an epoch is invalid")
        return cls(**value)


class Tally:
    """Accumulates loss, accuracy and macro F1 batch by batch. The memory depends only on the number of classes."""

    def __init__(self, classes: int) -> None:
        self._loss, self._rows = 0.0, 0
        self._hits, self._support, self._claimed = (np.zeros(classes, np.int64) for _ in range(3))

    def add(self, decisions: NDArray[Any], codes: NDArray[np.intp]) -> None:
        """Add rows with logits (m, c), c = 1 for two classes, and the true class numbers (m,)."""
        predicted, classes = predict_codes(decisions), len(self._hits)
        self._hits += np.bincount(codes[predicted == codes], minlength=classes)
        self._support += np.bincount(codes, minlength=classes)
        self._claimed += np.bincount(predicted, minlength=classes)
        self._loss -= float(log_softmax(decisions)[np.arange(len(codes)), codes].sum())
        self._rows += len(codes)

    @property
    def loss(self) -> float:
        """Mean log loss."""
        return self._loss / self._rows

    @property
    def accuracy(self) -> float:
        """Share of the rows whose class is predicted correctly."""
        return int(self._hits.sum()) / self._rows

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that have a row or a prediction, as ``f1_score(average="macro")`` of scikit-learn."""
        total = self._support + self._claimed
        there = total > 0
        return float((2 * self._hits[there] / total[there]).mean())


def write_metrics(folder: Path, history: Sequence[EpochRecord]) -> None:
    """Write ``metrics.csv`` into ``folder`` atomically, one line per epoch; values that do not exist are empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([field.name for field in fields(EpochRecord)])
    for record in history:
        values = record.to_dict().values()
        table.writerow(
            ["" if value is None else repr(value) if isinstance(value, float) else value for value in values]
        )
    atomic.write_bytes(folder / METRICS, text.getvalue().encode())


def scalars(record: EpochRecord) -> Mapping[str, float]:
    """Return the existing figures of an epoch by their names in TensorBoard."""
    named = {
        "loss/train": record.loss,
        "loss/held_out": record.held_out_loss,
        "accuracy/train": record.accuracy,
        "accuracy/held_out": record.held_out_accuracy,
        "macro_f1/held_out": record.held_out_macro_f1,
        "learning_rate": record.learning_rate,
    }
    return {name: value for name, value in named.items() if value is not None}
