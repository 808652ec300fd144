"""What ``predict`` returns: a class for each picture, or the reason why there is no class."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import FeatstoreError
from featstore.text import counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prediction:
    """The prediction for one picture, or the reason why there is no prediction.

    ``label``: the class; None for an unreadable picture, explained by ``reason`` and ``message``. ``probabilities``
    (classes,): float64 in the order of the head's classes. ``labels``: the predicted label set, None for a head that
    predicts classes; for a label set, ``label`` is the set as text, with the head's separator. ``number``: the
    predicted number, if the head predicts numbers; ``label`` and ``probabilities`` are then None.
    """

    key: str
    label: str | None
    probabilities: NDArray[np.float64] | None
    reason: str = ""
    message: str = ""
    labels: tuple[str, ...] | None = None
    number: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the picture has no prediction, because it is unreadable."""
        return self.label is None and self.number is None

    @property
    def probability(self) -> float | None:
        """Probability of the predicted class ``label``; None for a label set."""
        if self.probabilities is None or self.labels is not None:
            return None
        return float(self.probabilities.max())

    def __repr__(self) -> str:
        result = self.reason if self.failed else repr(self.label) if self.number is None else f"{self.number:g}"
        result += "" if self.probability is None else f", {self.probability:.4f}"
        return f"<Prediction {self.key!r}: {result}>"

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return the prediction as JSON."""
        if self.number is not None:
            return {"key": self.key, "number": self.number}
        if self.label is None or self.probabilities is None:
            return {"key": self.key, "label": None, "reason": self.reason, "message": self.message}
        probabilities = dict(zip(classes, self.probabilities.tolist(), strict=True))
        if self.labels is not None:
            return {"key": self.key, "labels": list(self.labels), "probabilities": probabilities}
        return {"key": self.key, "label": self.label, "probability": self.probability, "probabilities": probabilities}


class Predictions:
    """The predictions of one call, computed during the first iteration and kept for later iterations.

    ``classes``: class names in the order of the probabilities. ``notes``: warnings for the user. ``task``: what the
    head predicts, see heads.headfile.ALL_TASKS.
    """

    def __init__(
        self, classes: list[str], make: Callable[[], Iterator[Prediction]], notes: list[str], task: str = "classes"
    ) -> None:
        self.classes, self.notes, self.task = classes, notes, task
        self._make, self._kept = make, CachedIterator(make)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._kept)

    def stream(self) -> Iterator[Prediction]:
        """Yield the predictions without keeping them, in constant memory; each call computes them again."""
        return self._make()

    def __repr__(self) -> str:
        made = f"{self._kept.made:,} made" + ("" if self._kept.whole else " so far")
        return f"<Predictions of {counted(len(self.classes), 'class', 'classes')}: {made}>"

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame with one row per picture.

        Columns: key, label (categorical), probability, the probability of each class, reason, message. If a class has
        the name of one of these columns, the column of the class gets a trailing underscore. If the head predicts label
        sets, there are no columns label and probability but labels: tuples of labels, None if there is no prediction. If
        the head predicts numbers, there is a column "number". For an unreadable picture, label and probabilities are
        missing, and ``reason`` and ``message`` explain why.
        """
        import pandas as pd

        found = list(self)
        nothing = np.full(len(self.classes), np.nan)
        rows = [nothing if one.probabilities is None else one.probabilities for one in found]
        table = np.stack(rows) if rows else np.zeros((0, len(self.classes)))
        columns: dict[str, Any] = {"key": pd.Series([one.key for one in found], dtype=object)}
        if self.task == "classes":
            columns["label"] = pd.Categorical([one.label for one in found], categories=self.classes)
            columns["probability"] = np.array([one.probability for one in found], np.float64)
        elif self.task == "numbers":
            columns["number"] = np.array([one.number for one in found], np.float64)
        else:
            columns["labels"] = pd.Series([one.labels for one in found], dtype=object)
        own = (*columns, "reason", "message")
        columns |= {f"{name}_" if name in own else name: table[:, code] for code, name in enumerate(self.classes)}
        columns["reason"] = pd.Series([one.reason for one in found], dtype=object)
        columns["message"] = pd.Series([one.message for one in found], dtype=object)
        return pd.DataFrame(columns)


class CachedIterator:
    """Cache the items of an iterator during the first iteration, so that they can be iterated again."""

    def __init__(self, make: Callable[[], Iterator[Prediction]]) -> None:
        self._source, self._items = make(), list[Prediction]()
        self._error: BaseException | None = None
        self.whole = False

    @property
    def made(self) -> int:
        """Number of predictions that are cached so far."""
        return len(self._items)

    def __iter__(self) -> Iterator[Prediction]:
        for place in itertools.count():
            if place == len(self._items):
                if self._error is not None:
                    # After an error, a later iteration must raise the same error, instead of ending early.
                    raise self._error
                if self.whole:
                    return
                try:
                    self._items.append(next(self._source))
                except StopIteration:
                    self.whole = True
                    return
                except BaseException as error:
                    stopped = FeatstoreError("these predictions were interrupted; call predict again")
                    self._error = error if isinstance(error, Exception) else stopped
                    raise
            yield self._items[place]
