"""Read the targets of a head from a column of a store: label sets, which a separator divides, or numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featstore.errors import DataError, UsageError
from featstore.store import FeatureStore, tables
from featstore.text import counted, natural

CLASSES, LABEL_SETS, NUMBERS = "classes", "label sets", "numbers"
ALL_TASKS: Final = (CLASSES, LABEL_SETS, NUMBERS)
"""The kinds of prediction: one class per picture, a set of labels, or a number."""
TASK_OPTIONS: Final = ("labels", "separator", "target")
"""Options of ``train`` that choose the task."""


@dataclass(frozen=True)
class Task:
    """A task other than one class per picture: its ``kind``, the ``column`` of the store, and the ``separator`` of
    labels.

    A text of the column is a label set: "cat; dog" with the separator ";" has the labels cat and dog.
    """

    kind: str
    column: str
    separator: str = ""

    @classmethod
    def take(cls, options: dict[str, Any]) -> Task | None:
        """Remove TASK_OPTIONS from the ``options`` of ``train``; return their task, or None for classes.

        Raises UsageError if the options contradict each other.
        """
        given = {name: value for name in TASK_OPTIONS if (value := options.pop(name, None)) is not None}
        for name, value in given.items():
            if not isinstance(value, str) or not value:
                raise UsageError(f"{name} must be a text that is not empty, not {value!r}")
        if "target" in given and len(given) > 1:
            raise UsageError("target is a column of numbers, labels and separator are for label sets; give one of them")
        if "target" in given:
            return cls(NUMBERS, given["target"])
        if "separator" in given:
            return cls(LABEL_SETS, given.get("labels", tables.LABEL), given["separator"])
        if "labels" in given:
            raise UsageError(
                "labels names a column of label sets: say with separator what stands between two labels, such as ';'; "
                "for one class a picture, make the column the label (featstore label)"
            )
        return None

    @classmethod
    def recorded(cls, value: Any) -> Task | None:
        """Return the task from a dict that ``to_dict`` wrote; the dict may come from an untrusted file. Raises
        ValueError if it is invalid.
        """
        if value is None:
            return None
        if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in _FIELDS):
            raise ValueError("no task")
        options = (
            {name: value[key] for key, name in _OPTIONS[value["kind"]].items()} if value.get("kind") in _OPTIONS else {}
        )
        task = cls.take(options) if options else None
        if task is None or task.to_dict() != value:
            raise ValueError("no task")
        return task

    def to_dict(self) -> dict[str, str]:
        """Return the task as JSON."""
        return {"kind": self.kind, "column": self.column, "separator": self.separator}

    def options(self) -> dict[str, str]:
        """Return the options of ``train`` for the task."""
        return {name: getattr(self, key) for key, name in _OPTIONS[self.kind].items()}

    def read(self, store: FeatureStore) -> Targets:
        """Return the target of each row of ``store``. Raises UsageError if the column has no usable target."""
        column = store.column(self.column)
        values, left_out = _READERS[self.kind](self, column)
        if not any(value is not None for value in values):
            reasons = "".join(f"; {text}" for text in left_out)
            raise UsageError(f"{store.path}: nothing can be learnt from the column {self.column!r}{reasons}")
        return Targets(self, np.fromiter(values, object, len(values)), left_out)


_FIELDS: Final = ("kind", "column", "separator")
_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    LABEL_SETS: {"column": "labels", "separator": "separator"},
    NUMBERS: {"column": "target"},
}
"""For each kind of task, the fields of a Task and their options of ``train``."""


@dataclass(frozen=True)
class Targets:
    """The target of each row of a store: ``values`` (n,) objects, None for an unused row.

    A target is a sorted tuple of labels, or a number.

    ``left_out``: for each reason, a text that gives the number of rows left out for it.
    """

    task: Task
    values: NDArray[np.object_]
    left_out: list[str]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Whether each row has a target (n,)."""
        return np.array([value is not None for value in self.values.tolist()], bool)

    def strata(self, rows: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return a stratum (m,) for each of ``rows``: its rarest label. A split distributes each stratum evenly.

        If the targets are numbers, all rows are one stratum.
        """
        if self.task.kind == NUMBERS:
            return np.zeros(len(rows), np.intp)
        counts = Counter(name for value in self.values[rows].tolist() for name in value)
        number = {name: at for at, name in enumerate(sorted(counts, key=lambda name: (counts[name], natural(name))), 1)}
        return np.array([min((number[name] for name in value), default=0) for value in self.values[rows]], np.intp)

    def with_two_to_train(
        self, rows: NDArray[np.int64], groups: NDArray[np.int64], test: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return (training, test) places in ``rows`` (n,), after moving pictures of labels that cannot be learnt.

        A label needs training pictures of two ``groups`` (n,). If it has fewer, groups with the label move from the
        held-out pictures, ``test``, to the training pictures. Raises DataError if no held-out picture is left.
        """
        held_out = np.zeros(len(rows), bool)
        held_out[test] = True
        places: dict[str, list[int]] = {}
        if self.task.kind == LABEL_SETS:
            for at, value in enumerate(self.values[rows].tolist()):
                for name in value:
                    places.setdefault(name, []).append(at)
        for name in sorted(places, key=lambda name: (len(places[name]), natural(name))):
            having = np.array(places[name])
            lacking = 2 - len(np.unique(groups[having[~held_out[having]]]))
            if lacking > 0:
                held_out[np.isin(groups, np.unique(groups[having[held_out[having]]])[:lacking])] = False
        if not held_out.any():
            raise DataError(
                "every picture is needed for training, where a label needs two pictures; label more pictures"
            )
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def texts(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the target of each of ``rows`` as text, for digests."""
        if self.task.kind == NUMBERS:
            return [value.hex() for value in self.values[rows].tolist()]
        return [self.task.separator.join(value) for value in self.values[rows].tolist()]

    def missing(self, train: NDArray[np.int64], test: NDArray[np.int64]) -> list[str]:
        """Return the labels that rows in ``train`` have and no row in ``test`` has.

        Raises UsageError if a row in ``test`` has a label that no row in ``train`` has.
        """
        known, there = self.names(train), self.names(test)
        unknown = [name for name in there if name not in set(known)]
        if unknown:
            more = f" and {len(unknown) - 5:,} more" if len(unknown) > 5 else ""
            raise UsageError(
                f"the held-out pictures have {', '.join(unknown[:5])}{more}, which no training picture has: take such "
                "labels out of the column, or give them to more pictures"
            )
        return [name for name in known if name not in set(there)]

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the labels of ``rows`` in natural order; an empty list if the targets are numbers."""
        if self.task.kind == NUMBERS:
            return []
        return sorted({name for value in self.values[rows].tolist() for name in value}, key=natural)


def _label_sets(task: Task, column: NDArray[np.object_]) -> tuple[list[Any], list[str]]:
    """Return the label set of each row, and texts that report the rows without a label set.

    A text of separators alone (and spaces) is the empty set; a missing, empty or otherwise blank text is no label set,
    so the row is not used.
    """
    texts = [None if value is None else str(value) for value in column.tolist()]
    if not any(text and task.separator in text.strip() for text in texts):
        raise UsageError(
            f"the separator {task.separator!r} is in no text of the column {task.column!r}"
            + _example(text.strip() for text in texts if text)
            + "; for one class a picture leave it out"
        )
    sets = [
        tuple(sorted({part for piece in text.split(task.separator) if (part := piece.strip())}, key=natural))
        if text and (text.strip() or task.separator in text)
        else None
        for text in texts
    ]
    missing = sets.count(None)
    left_out = (
        f"{counted(missing, 'picture')} without a label set in {task.column!r} (the text {task.separator!r} would be the "
        "empty set)"
    )
    return sets, [left_out] * bool(missing)


def _example(texts: Iterable[str]) -> str:
    longest = max(texts, key=len, default=None)
    return "" if longest is None else f", such as {longest[:60]!r}"


def _numbers(task: Task, column: NDArray[np.object_]) -> tuple[list[Any], list[str]]:
    """Return the number of each row, and texts that report the rows without a number."""
    values = [None if isinstance(value, str) and not value.strip() else value for value in column.tolist()]
    numbers = [_number(value) for value in values]
    odd = [str(value) for value, one in zip(values, numbers, strict=True) if one is None and value is not None]
    missing = numbers.count(None) - len(odd)
    left_out = [f"{counted(missing, 'picture')} without a number in {task.column!r}"] * bool(missing)
    if odd:
        shown = ", ".join(repr(text[:30]) for text in sorted(set(odd), key=natural)[:5])
        more = ", ..." if len(set(odd)) > 5 else ""
        left_out.append(f"{counted(len(odd), 'picture')} whose {task.column!r} is no finite number ({shown}{more})")
    return numbers, left_out


def _number(value: Any) -> float | None:
    """Return a value of a column as a finite number, None if it is not a finite number."""
    # Python reads "10_2" as 102; in a table it is a code.
    if value is None or isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_READERS: Final = {LABEL_SETS: _label_sets, NUMBERS: _numbers}
