"""The stage from a store to a trained head and an honest report on it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore import defaults
from featstore.errors import DamagedError, UsageError
from featstore.files import atomic, sealed
from featstore.names import did_you_mean
from featstore.store.origin import KEY, generation_number, state_of_store
from featstore.store.splitting import Split, split_store
from featstore.store.stacked import StackedStores

if TYPE_CHECKING:
    from featstore.heads import Report, TrainedHead

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A store, or several of the same pictures."""


@dataclass(frozen=True)
class TrainReport:
    """A trained head and how good it is.

    ``path`` of the head's file; ``report``: on the held-out rows ``split.test``, whose ``probabilities`` are
    (n, classes), in the order of ``head.classes``; ``notes``: what a reader of the figures has to know, in words;
    ``seconds`` by step. ``uncalibrated``: calibration error and log loss before temperature scaling, empty for a head
    without it. ``store``: whose rows, labels and pictures these are; ``stores``: all, where the head is on several.
    """

    store: str
    path: str
    head: TrainedHead
    report: Report
    split: Split
    probabilities: NDArray[np.float64] = field(repr=False)
    notes: list[str]
    seconds: dict[str, float]
    uncalibrated: dict[str, float] = field(default_factory=dict)
    stores: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> dict[str, float]:
        """The parameters that cross-validation chose, or that were given."""
        chosen = self.head.meta.get("chosen")
        return dict(chosen) if isinstance(chosen, dict) else {}

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What temperature scaling did to the held-out figures, ``before`` and ``after``, and its factor ``scale``."""
        if not self.uncalibrated:
            return None
        after = {name: self.report.estimates[name].value for name in self.uncalibrated}
        return {"scale": scale_of(self.head), "before": self.uncalibrated, "after": after}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "store": self.store,
            "stores": self.stores or [self.store],
            "head": self.path,
            "kind": self.head.kind,
            "classes": self.head.classes,
            "chosen": self.chosen,
            "cross_validation": self.head.meta.get("cross_validation"),
            "split": self.split.to_dict(),
            "held_out": self.report.to_dict(),
            "calibration": self.calibration,
            "notes": self.notes,
            "seconds": self.seconds,
        }


def head_path(store: Paths, kind: str) -> Path:
    """Return the file that a head of ``store`` goes to where none is named: beside the (first) store, under its name."""
    paths = [Path(os.path.abspath(path)) for path in _listed(store)]
    return paths[0].with_name(f"{'+'.join(path.name for path in paths)}.{kind}.head")


def train(
    store: Paths,
    *,
    head: str = "logreg",
    out: str | os.PathLike[str] | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    held_out: float = defaults.HELD_OUT,
    C: float | str = "auto",
    class_weight: Mapping[str, float] | str | None = None,
    folds: int | float = defaults.FOLDS,
    seed: int = defaults.SEED,
    **options: Any,
) -> TrainReport:
    """Train a ``head`` ("logreg", "linear-svm", "rbf-svm" or "knn") on a store, save it, and judge it.

    Of several stores the features of the same keys are put side by side (an ensemble of backbones); labels, splits and
    pictures are those of the first, and every other store must have a vector of each.
    C is chosen by cross-validation of ``folds`` folds on the training rows alone; the figures are of the held-out
    rows (see split_store for which those are). Equal bytes share a fold. ``options`` go to the estimator (see
    featstore.heads). The head goes to ``out``, by default head_path(store, head), and replaces a head that is there.

    Raises UsageError: no labels, one class, a class missing from the training split, NaN, an ``out`` that is
    something else, pictures that one of several stores lacks; DamagedError, OSError.
    """
    from featstore.heads import train_head
    from featstore.heads.trainer import HEADS

    if head not in HEADS:
        raise UsageError(f"there is no head {head!r}; choose one of {', '.join(HEADS)}{did_you_mean(head, HEADS)}")
    paths = _listed(store)
    stack = StackedStores.open(paths)
    stack.require_whole()
    opened = stack.first
    path = Path(out) if out is not None else head_path(store, head)
    _require_replaceable(path)
    split = split_store(opened, train_split=train_split, test_split=test_split, held_out=held_out, seed=seed)
    started = time.perf_counter()
    from featstore.store.splitting import groups_of_equal_bytes

    trained = train_head(
        rows_of(stack, split.train),
        opened.labels[split.train].astype(str),
        kind=head,
        groups=groups_of_equal_bytes(opened.sha256[split.train]),
        seed=seed,
        folds=folds,
        C=C,
        class_weight=class_weight,
        fingerprint=stack.fingerprint,
        identity=stack.identity,
        meta={
            KEY: stack.origin,
            "split": split.to_dict(),
            "label_version": opened.tables.version,
            "generation": generation_number(opened),
        },
        **options,
    )
    fitted = time.perf_counter()
    probabilities, report, uncalibrated = assess(stack, trained, split, seed=seed)
    from featstore.heads import save_head

    seconds = {"train": round(fitted - started, 3), "evaluate": round(time.perf_counter() - fitted, 3)}
    save_head(path, trained, {"report": report.to_dict(), "seconds": seconds})
    notes = [*state_of_store(opened), *stack.notes(), *split.notes()]
    names = [os.fspath(one) for one in paths]
    return TrainReport(names[0], str(path), trained, report, split, probabilities, notes, seconds, uncalibrated, names)


def assess(
    stack: StackedStores, head: TrainedHead, split: Split, *, seed: int = defaults.SEED
) -> tuple[NDArray[np.float64], Report, dict[str, float]]:
    """Return, of ``head`` on the held-out rows of ``split``: probabilities (n, classes), Report, and ``uncalibrated``."""
    from featstore.heads.evaluation.report import before_calibration, evaluate

    head.check_identity(stack.fingerprint, stack.identity)
    blocks = [probabilities for _, probabilities in head.predict_blocks(stack.stream(split.test))]
    probabilities = np.concatenate(blocks)
    truth, scale = stack.first.labels[split.test].astype(str), scale_of(head)
    before = before_calibration(truth, probabilities, head.classes, scale) if scale is not None else {}
    return probabilities, evaluate(truth, probabilities, head.classes, seed=seed), before


def scale_of(head: TrainedHead) -> float | None:
    """Return the factor that temperature scaling gave the decision values of ``head``; None for a head without it."""
    return getattr(head.model, "scale", None)


def rows_of(stack: StackedStores, rows: NDArray[np.int64]) -> Any:
    """Return ``rows`` as an (n, d) array where that is a small part of the memory for heads, else as a stream."""
    if len(rows) * stack.dimension * 4 <= defaults.HEAD_MEMORY // 4:
        return stack.features(rows)
    return stack.stream(rows)


def _listed(store: Paths) -> list[str | os.PathLike[str]]:
    return [store] if isinstance(store, str | os.PathLike) else list(store)


def _require_replaceable(path: Path) -> None:
    """Raise UsageError where something is at ``path`` that is no head."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file for the head, such as {path.with_name('my.head')}")
    atomic.require_place(path)
    if path.exists():
        try:
            sealed.read_header(path, "head")
        except DamagedError:
            raise UsageError(f"{path}: is there and is no head; name another file for the head") from None
